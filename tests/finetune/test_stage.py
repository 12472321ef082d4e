"""Whole runs: what they leave, what they learn, and that stopping them changes nothing."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from embedkd.config.tuning import FinetuneConfig
from embedkd.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    ShardError,
    TeacherError,
    TrainingError,
)
from embedkd.finetune import FinetuneResult, finetune, setting
from embedkd.finetune.views import TeachersView
from embedkd.join import JoinedShards, shard_samples
from embedkd.rundir import RunDir, read_json
from embedkd.sources.shards import index_shards, list_data
from embedkd.teachers.runner import TorchTeacher

if TYPE_CHECKING:
    from embedkd.finetune.tuner import Tuner

from tests.watch import Watch

ConfigOf = Callable[..., FinetuneConfig]
LoadToy = Callable[..., TorchTeacher]
STEPS = 15


def run_of(config: FinetuneConfig) -> RunDir:
    return RunDir(Path(f"{config.out}.run"))


def traces(config: FinetuneConfig) -> tuple[dict[str, bytes], list[dict[str, Any]], dict[str, Any]]:
    """Everything that a run leaves, but for times and paths."""
    files = {path.name: path.read_bytes() for path in Path(config.out).iterdir()}
    metrics = [{k: v for k, v in line.items() if k != "elapsed_s"} for line in run_of(config).read_metrics()]
    result = {k: v for k, v in (run_of(config).read_result() or {}).items() if k not in {"elapsed_s", "out"}}
    return files, metrics, result


def pixels_of(data: Path, split: str, teacher: TorchTeacher) -> tuple[torch.Tensor, torch.Tensor]:
    listing = list_data(str(data))
    shards = [shard for shard in index_shards(listing) if shard.split == split]
    view = TeachersView(teacher.preprocess)
    batch = JoinedShards(shard_samples(shards, listing.root), view, global_batch_size=99, shuffle=False).batch(0, 0)
    return batch.pixels, batch.labels


def tune(config: FinetuneConfig, data: Path, **options: Any) -> FinetuneResult:
    return finetune(config, str(data), **options)


def test_a_run_leaves_a_folder_that_is_a_teacher(config_of: ConfigOf, data: Path, load_toy: LoadToy) -> None:
    config = config_of()
    result = tune(config, data)
    out = Path(config.out)
    assert sorted(path.name for path in out.iterdir()) == ["classifier.safetensors", "embedkd.json", "toy.safetensors"]
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []
    card = read_json(out / "embedkd.json")
    base = load_toy().spec
    assert (card["features"], card["classes"]) == ("pooled", ["red", "green", "blue"])
    assert card["derived_from"] == f"toy:small {base.fingerprint}"
    assert card["val_top1"] == result.val_top1
    assert card["config"]["epochs"] == 3
    assert str(out) not in json.dumps(card)
    tuned = load_toy(out)
    assert tuned.spec.derived_from == card["derived_from"]
    assert (result.steps, result.train_rows, result.val_rows, result.test_rows) == (STEPS, 42, 12, 12)
    assert read_json(run_of(config).result) == result.to_json()
    for split, top1 in (("val", result.val_top1), ("test", result.test_top1)):
        pixels, labels = pixels_of(data, split, tuned)
        said = tuned.embed(pixels, ["logits"])["logits"].argmax(1)
        assert float((said == labels).float().mean()) == pytest.approx(top1)


def test_the_folder_says_the_same_bits_as_the_model_in_memory(
    config_of: ConfigOf, data: Path, load_toy: LoadToy, tuners: "list[Tuner]"
) -> None:
    config = config_of()
    tune(config, data)
    tuned = load_toy(Path(config.out))
    pixels, _ = pixels_of(data, "test", tuned)
    (tuner,) = tuners
    tuner.backbone.module.eval()
    with torch.inference_mode():
        expected = tuner.logits(pixels)
    assert torch.equal(tuned.embed(pixels, ["logits"])["logits"], expected)


def test_tuning_beats_its_own_warm_up(config_of: ConfigOf, data: Path) -> None:
    """The features hardly hold colours: no classifier on them knows the classes, a tuned backbone does."""
    config = config_of(epochs=25, lr=3e-2, layer_decay=1.0)
    result = tune(config, data)
    found = run_of(config).read_metrics("validation")
    warm = max(line["top1"] for line in found if line["phase"] == "warmup")
    assert warm < 0.7
    assert result.val_top1 == max(line["top1"] for line in found) > 0.9
    assert result.test_top1 is not None
    assert result.test_top1 > 0.9


def test_the_kept_epoch_is_the_best_by_answers_then_loss(config_of: ConfigOf, data: Path) -> None:
    config = config_of(epochs=6, lr=1e-2)
    result = tune(config, data)
    found = run_of(config).read_metrics("validation")
    best = min(found, key=lambda line: (-line["top1"], line["loss"], line["epoch"]))
    assert (result.best_epoch, result.val_top1, result.val_loss) == (best["epoch"], best["top1"], best["loss"])
    assert len({line["top1"] for line in found}) < len(found), "ties are there, so the loss decides"


def test_the_same_config_gives_the_same_bits_and_another_seed_others(config_of: ConfigOf, data: Path) -> None:
    configs = [config_of("first"), config_of("second"), config_of("third", seed=1)]
    for config in configs:
        tune(config, data)
    first, second, third = map(traces, configs)
    assert first == second
    assert first[0] != third[0]


@pytest.fixture
def undisturbed(config_of: ConfigOf, data: Path) -> Any:
    config = config_of("undisturbed")
    tune(config, data)
    return traces(config)


@pytest.mark.parametrize("step", [1, 3, 6, 7, 11, STEPS])
def test_a_run_stopped_after_a_step_ends_as_if_it_was_not(
    config_of: ConfigOf, data: Path, undisturbed: Any, step: int
) -> None:
    """In either phase, at their border, and at the ends of epochs; with dropout and batch norms."""
    config = config_of()
    with pytest.raises(Interrupted, match=f"stopped after step {step} of {STEPS}; add --resume"):
        tune(config, data, progress=Watch(step))
    assert not Path(config.out).exists()
    watch = Watch()
    tune(config, data, resume=True, progress=watch)
    assert watch.steps == STEPS - step
    assert traces(config) == undisturbed


def test_a_run_stopped_many_times_ends_as_if_it_was_not(config_of: ConfigOf, data: Path, undisturbed: Any) -> None:
    config = config_of()
    for _ in range(7):
        with pytest.raises(Interrupted):
            tune(config, data, resume=True, progress=Watch(2, signal.SIGINT))
    tune(config, data, resume=True)
    assert traces(config) == undisturbed


def test_a_run_killed_between_its_last_writes_only_makes_those(
    config_of: ConfigOf, data: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of()
    with monkeypatch.context() as patch:
        patch.setattr("embedkd.finetune.stage.save_classifier", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tune(config, data)
    assert not Path(config.out).exists()
    assert sorted(path.name for path in Path(config.out).parent.iterdir()) == [
        "tuned.run",
        "undisturbed",
        "undisturbed.run",
    ]
    with monkeypatch.context() as patch:
        patch.setattr("embedkd.finetune.stage.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tune(config, data, resume=True)
    assert Path(config.out).exists()
    watch = Watch()
    tune(config, data, resume=True, progress=watch)
    assert watch.steps == 0
    assert traces(config) == undisturbed


def test_a_finished_run_is_left_alone(config_of: ConfigOf, data: Path) -> None:
    config, watch = config_of(), Watch()
    first = tune(config, data)
    before = traces(config)
    assert tune(config, data, resume=True, progress=watch) == first
    assert watch.lines == [f"{config.out} is finished already; name another folder with --out to tune again"]
    assert traces(config) == before
    with pytest.raises(TrainingError, match="already holds a run; add --resume"):
        tune(config, data)


def test_another_config_teacher_or_data_does_not_go_on(
    config_of: ConfigOf,
    data: Path,
    load_toy: LoadToy,
    make_data: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of()
    with pytest.raises(Interrupted):
        tune(config, data, progress=Watch(4))
    with pytest.raises(CheckpointError, match=r"another config: epochs was 3, is 4"):
        tune(replace(config, epochs=4), data, resume=True)
    other = make_data(tmp_path / "other", ("train", "test"))
    with pytest.raises(CheckpointError, match=r"other data \(changed: training split, validation split\)"):
        tune(config, other, resume=True)
    teacher = load_toy()
    changed = replace(teacher, spec=replace(teacher.spec, weights_sha256="1" * 64))
    monkeypatch.setattr(setting, "load_teacher", lambda name, options: changed)
    with pytest.raises(CheckpointError, match=r"changed: teacher"):
        tune(config, data, resume=True)


def test_a_folder_with_something_else_is_not_touched(config_of: ConfigOf, data: Path) -> None:
    config = config_of()
    Path(config.out).mkdir()
    with pytest.raises(TrainingError, match="is there already; name another folder with --out"):
        tune(config, data)
    assert list(Path(config.out).iterdir()) == []
    assert not run_of(config).path.exists()


def test_without_a_validation_split_some_of_each_class_are_held_out(
    config_of: ConfigOf, make_data: Callable[..., Path], tmp_path: Path
) -> None:
    data, watch = make_data(tmp_path / "plain", ("train",)), Watch()
    result = tune(config_of(), data, progress=watch)
    assert (result.train_rows, result.val_rows, result.test_top1) == (39, 3, None)
    assert result.held_out
    assert "there is no validation split: 3 of 42 training samples are held out" in watch.lines


def test_frozen_parts_do_not_change_by_a_bit(config_of: ConfigOf, data: Path, load_toy: LoadToy) -> None:
    """With one of three blocks tuned; batch norms keep their statistics everywhere."""
    config = config_of(last_blocks=1, epochs=4, lr=3e-2)
    tune(config, data)
    before = load_toy().backbone
    after = load_toy(Path(config.out)).backbone
    assert before is not None
    assert after is not None
    state, tuned = before.module.state_dict(), after.module.state_dict()
    changed = {name for name in state if not torch.equal(state[name], tuned[name])}
    assert changed == {
        *("blocks.2.linear.weight", "blocks.2.linear.bias", "blocks.2.norm.weight", "blocks.2.norm.bias"),
        *("norm.weight", "norm.bias"),
    }


def test_the_warm_up_leaves_the_whole_backbone(config_of: ConfigOf, data: Path, load_toy: LoadToy) -> None:
    config = config_of(epochs=0, warmup_epochs=3)
    tune(config, data)
    before, after = load_toy().backbone, load_toy(Path(config.out)).backbone
    assert before is not None
    assert after is not None
    for name, tensor in before.module.state_dict().items():
        assert torch.equal(tensor, after.module.state_dict()[name]), name


def test_a_run_without_warm_up_tunes_from_its_first_step(config_of: ConfigOf, data: Path) -> None:
    config = config_of(warmup_epochs=0)
    tune(config, data)
    assert {line["phase"] for line in run_of(config).read_metrics("train")} == {"tune"}


def test_what_cannot_be_tuned_is_said(
    config_of: ConfigOf,
    data: Path,
    make_data: Callable[..., Path],
    load_toy: LoadToy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(TrainingError, match="name them with --data, for example data:clipart"):
        finetune(config_of(), None)
    with pytest.raises(TrainingError, match="names no classes; pack it with embedkd pack"):
        tune(config_of(), make_data(tmp_path / "unnamed", names=None))
    with pytest.raises(TrainingError, match="no training samples"):
        tune(config_of(), make_data(tmp_path / "val", ("val",)))
    with pytest.raises(TrainingError, match=r"sample 'train-.*' has label 2, the data names 2 classes"):
        tune(config_of("two"), make_data(tmp_path / "two classes", names=("red", "green")))
    with pytest.raises(ConfigError, match=r"last_blocks: expected up to 3, the blocks of this teacher, got 4"):
        tune(config_of(last_blocks=4), data)
    with pytest.raises(ShardError):
        tune(config_of(), tmp_path / "nowhere")
    with pytest.raises(TrainingError, match=r"step \d+: expected a finite loss"):
        tune(config_of("burst", lr=1e30, clip_grad_norm=0.0), data)
    teacher = load_toy()
    monkeypatch.setattr(setting, "load_teacher", lambda name, options: replace(teacher, backbone=None))
    with pytest.raises(TeacherError, match="cannot be tuned"):
        tune(config_of(), data)
    assert not Path(config_of().out).exists()
