import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkd.config import Config, load_config
from embedkd.errors import (
    CheckpointError,
    ConfigError,
    EmbedKDError,
    TrainingError,
    UnknownNameError,
)
from embedkd.rundir import RunDir, read_json
from embedkd.training import load_student, train
from embedkd.training.checkpoint import read_checkpoint
from embedkd.training.state import Learner
from embedkd.training.stores import open_teachers
from tests.training.conftest import traces
from tests.watch import Watch

ConfigOf = Callable[..., Config]
STEPS = 9


def test_a_run_learns_and_leaves_its_folder(config_of: ConfigOf) -> None:
    config = config_of("train.epochs=8", "optimiser.lr=3e-3")
    result = train(config)
    run = RunDir(Path(config.train.out))
    assert result.test_top1 is not None
    assert result.test_top1 > 0.8, "three colours"
    assert (result.steps, result.train_rows, result.test_rows, result.teacher) == (24, 22, 9, "test:mean-colour")
    assert (result.device, result.precision, result.workers) == ("cpu", "float32", 0)
    assert result.memory["net_bytes"] == result.memory["peak_bytes"] - result.memory["start_bytes"] >= 0
    assert read_json(run.result) == result.to_json()
    (view,) = (one.view for one in open_teachers(config.train.targets, None))
    named = (f"{config.train.targets[0]}#{view.teacher_id}",)
    assert run.read_config() == replace(config, train=replace(config.train, targets=named))
    losses = [line["loss"] for line in run.read_metrics("train")]
    assert len(losses) == 24
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    assert [line["epoch"] for line in run.read_metrics("validation")] == list(range(1, 9))
    assert sorted(path.name.split(".")[0] for path in run.path.iterdir()) == [
        *("checkpoint", "config", "environment", "events", "metrics"),
        *("result", "student", "student", "student-projections"),
    ]


def test_the_kept_student_is_the_best_on_validation(config_of: ConfigOf) -> None:
    config = config_of("train.epochs=6", "optimiser.lr=3e-3")
    result = train(config)
    found = {line["epoch"]: line["top1"] for line in RunDir(Path(config.train.out)).read_metrics("validation")}
    assert result.val_top1 == max(found.values())
    assert result.best_epoch == min(epoch for epoch, top1 in found.items() if top1 == result.val_top1)
    _, card = load_student(RunDir(Path(config.train.out)))
    assert (card.epoch, card.val_top1, card.class_names) == (
        result.best_epoch,
        result.val_top1,
        ("red", "green", "blue"),
    )


def test_the_same_config_gives_the_same_bits(config_of: ConfigOf) -> None:
    first, second = config_of(out="first"), config_of(out="second")
    train(first)
    train(second)
    assert traces(first) == traces(second)


def test_a_finished_run_says_so(config_of: ConfigOf) -> None:
    config, watch = config_of("train.epochs=1"), Watch()
    first = train(config)
    assert train(config, resume=True, progress=watch) == first
    assert watch.lines == [f"{config.train.out} is finished already; name another folder with --out to train again"]


@pytest.mark.parametrize("change", [{"student": None}, {"smell": 1}])
def test_a_result_of_another_version_is_told(config_of: ConfigOf, change: dict[str, int | None]) -> None:
    config = config_of("train.epochs=1")
    path = Path(config.train.out) / "result.json"
    result = train(config).to_json() | change
    path.write_text(json.dumps({key: value for key, value in result.items() if value is not None}))
    with pytest.raises(CheckpointError, match=r"result.json is no result of this version .* remove it"):
        train(config, resume=True)


def test_a_folder_with_a_run_is_not_begun_again(config_of: ConfigOf) -> None:
    train(config_of("train.epochs=1"))
    with pytest.raises(TrainingError, match="already holds a run; add --resume"):
        train(config_of("train.epochs=1"))


def test_a_start_that_fails_leaves_the_folder_free(config_of: ConfigOf) -> None:
    for change, error in (("losses.mes=1", "did you mean mse"), ("student.name=vit-tony", "did you mean vit-tiny")):
        with pytest.raises(UnknownNameError, match=error):
            train(config_of(change))
    train(config_of("train.epochs=1"))


def test_the_last_good_checkpoint_outlives_a_loss_that_is_not_finite(
    config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, config = config_of(out="whole"), config_of("train.checkpoint_every_steps=2", out="spoilt")
    train(whole)
    update = Learner.update

    def spoilt(self: Learner) -> None:
        update(self)
        if self.position.step == 5:  # behind the checkpoint of step 4, before that of the epoch's end
            next(self.student.parameters()).data.fill_(torch.nan)

    monkeypatch.setattr(Learner, "update", spoilt)
    with pytest.raises(TrainingError, match="expected finite losses"):
        train(config)
    monkeypatch.setattr(Learner, "update", update)
    assert read_checkpoint(RunDir(Path(config.train.out)).checkpoint).position.step == 4
    train(config, resume=True)
    one, other = (RunDir(Path(made.train.out)).weights.read_bytes() for made in (whole, config))
    assert one == other, "what went wrong has left nothing behind"


def test_a_loss_that_is_not_finite_names_the_batch(config_of: ConfigOf) -> None:
    config = config_of("optimiser.lr=1e30", out="diverged")
    with pytest.raises(TrainingError) as caught:
        train(config)
    first, second = str(caught.value).split("\n")
    assert "expected finite losses, got cross_entropy nan" in first
    assert "train-0" in second
    assert "and 2 more" in second
    assert "lower optimiser.lr" in second
    run = RunDir(Path(config.train.out))
    failed = read_json(run.failed_batch)
    assert len(failed["keys"]) == 8
    assert [line["step"] for line in run.read_metrics("train")] == list(range(1, failed["step"]))


@pytest.mark.parametrize("loss", ["mse", "cosine", "sample_contrastive"])
def test_rows_of_a_view_that_the_teacher_did_not_see_need_a_permission(config_of: ConfigOf, loss: str) -> None:
    losses = f"losses={{cross_entropy=0.5, {loss}=0.5}}"
    with pytest.raises(ConfigError, match=rf"^{loss} compares each sample .*\nallow that with --allow-view-mismatch"):
        train(config_of(losses))
    plain = ("augment.crop_padding_px=0", "augment.flip=0")
    assert train(config_of(losses, "train.epochs=1", *plain, out="plain")).view_mismatch == []
    watch = Watch()
    allowed = config_of(losses, "train.epochs=1", "train.allow_view_mismatch=true", out="allowed")
    assert train(allowed, progress=watch).view_mismatch == [loss]
    assert any("the student sees moved views" in line for line in watch.lines)


def test_a_batch_too_small_for_a_loss_is_refused(config_of: ConfigOf) -> None:
    changes = ("losses={sample_contrastive=1}", "train.allow_view_mismatch=true", "train.global_batch_size=1")
    with pytest.raises(ConfigError, match="expected at least 2 for sample_contrastive, got 1"):
        train(config_of(*changes))


def test_workers_read_the_same_batches(
    config_of: ConfigOf, tmp_path: Path, make_data: Callable[..., object], make_store: Callable[..., Path]
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data", ("train",)))
    made = {n: config_of(f"train.targets={store}", "train.epochs=2", f"train.workers={n}", out=str(n)) for n in (0, 2)}
    for config in made.values():
        train(config)
    assert traces(made[0])[:3] == traces(made[2])[:3]


def test_the_moving_average_is_what_is_judged_and_kept(config_of: ConfigOf) -> None:
    config = config_of("train.ema_decay=0.8", "train.epochs=1")  # so that the checkpoint is of the kept one
    train(config)
    run = RunDir(Path(config.train.out))
    checkpoint, kept = read_checkpoint(run.checkpoint), load_student(run)[0].state_dict()
    assert checkpoint.average is not None
    assert all(torch.equal(kept[name], checkpoint.average[f"student.{name}"]) for name in kept)
    assert not any(torch.equal(kept[name], checkpoint.student[name]) for name in kept)


def test_parts_of_a_step_give_what_the_whole_gives(config_of: ConfigOf) -> None:
    sets = ("losses={cross_entropy=1, mse=1}", "student.drop_path=0", "train.allow_view_mismatch=true")
    whole, parts = config_of(*sets, out="whole"), config_of(*sets, "train.accumulate=4", out="parts")
    assert train(parts).steps == train(whole).steps == STEPS
    found, expected = (RunDir(Path(config.train.out)).read_metrics("train") for config in (parts, whole))
    for one, other in zip(found, expected, strict=True):
        assert one["terms"] == pytest.approx(other["terms"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
    with pytest.raises(ConfigError, match=r"accumulate: expected a divisor of train.global_batch_size = 8, got 3"):
        config_of("train.accumulate=3")
    with pytest.raises(ConfigError, match="expected at least 2 for sample_contrastive, got 1"):
        train(config_of("losses={sample_contrastive=1}", *sets[1:], "train.accumulate=8"))


def test_a_compiled_student_keeps_the_names_of_its_weights(
    config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    real = torch.compile

    def traced(function: Callable[..., Any], **options: Any) -> Any:
        """All of it but the code generator, which needs a compiler and half a minute."""
        compiled.append(function)
        return real(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", traced)
    plain, fast = config_of("train.epochs=1", out="plain"), config_of("train.epochs=1", "train.compile=true", out="c")
    train(plain)
    assert not compiled
    train(fast)
    assert len(compiled) == 1
    assert traces(fast) == traces(plain)


def test_logging_fewer_steps_changes_nothing_else(config_of: ConfigOf) -> None:
    config, every = config_of("train.log_every_steps=4", out="some"), config_of(out="every")
    train(config)
    train(every)
    run = RunDir(Path(config.train.out))
    assert [line["step"] for line in run.read_metrics("train")] == [4, 8]
    assert traces(config)[0] == traces(every)[0]


PIPELINES = Path(__file__).parents[2] / "pipelines"


@pytest.mark.parametrize("name", ["smoke", "clipart"])
def test_pipelines_run(name: str, data: Path, tmp_path: Path) -> None:
    config = load_config(PIPELINES / f"{name}.toml", values={"train.targets": str(data / "store.zarr")})
    for run in config.demo.runs:
        made = config.for_demo_run(run)
        result = train(replace(made, train=replace(made.train, out=str(tmp_path / run.name))))
        assert result.losses == run.losses
        assert result.epochs == config.train.epochs


def test_every_error_of_a_start_is_ours(config_of: ConfigOf, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for change in (
        f"train.out={blocked}",
        f"train.out={blocked}/run",
        "train.targets=/no/such.zarr",
        "train.device=tpu",
    ):
        with pytest.raises(EmbedKDError):
            train(config_of(change))
