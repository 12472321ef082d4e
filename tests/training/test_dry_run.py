import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from embedkd.cli.plan import plan_lines
from embedkd.config import Config
from embedkd.errors import ConfigError, JoinError, TrainingError
from embedkd.join.files import ShardFile
from embedkd.rundir import RunDir
from embedkd.storage import LocalStorage
from embedkd.training import train
from embedkd.training.plan import Plan
from embedkd.training.preview import preview
from embedkd.training.reading import shard_bytes, target_bytes
from embedkd.training.trial import _kept, try_steps
from tests.cli.conftest import invoke
from tests.training.conftest import SPEC

ConfigOf = Callable[..., Config]
END_BYTES = 10_240  # of a tar: two empty blocks, filled up to a record
LOSSES = "losses={cross_entropy=0.5, class_contrastive=0.25, mse=0.1, kl=0.1}"


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes of samples and of chunks of arrays that are read from now on."""
    read = {"shards": 0, "targets": 0}
    sample, get = ShardFile.sample, LocalStorage.get

    def counted_sample(*arguments: Any) -> Any:
        found = sample(*arguments)
        read["shards"] += found.place.size_bytes
        return found

    def counted_get(storage: LocalStorage, key: str, **more: Any) -> bytes:
        data = get(storage, key, **more)
        if "/c/" in key and "/classes/" not in key:
            read["targets"] += len(data)
        return data

    monkeypatch.setattr(ShardFile, "sample", counted_sample)
    monkeypatch.setattr(LocalStorage, "get", counted_get)
    return read


@pytest.mark.parametrize("losses", ["losses={mse=1, kl=1}", "losses={mse=1}", "losses={cross_entropy=1}"])
def test_an_epoch_reads_the_bytes_that_are_planned(
    config_of: ConfigOf, read_bytes: dict[str, int], losses: str
) -> None:
    plan = Plan.of(config_of(losses, "train.allow_view_mismatch=true", "train.epochs=1"))
    planned = shard_bytes(plan.data.train), target_bytes(plan.data.train)
    _, card = plan.build()
    read_bytes.update(shards=0, targets=0)
    rows = sum(int(batch.valid.sum()) for batch in plan.training_batches(card, 0))
    assert rows == plan.data.train.rows == 22
    assert read_bytes["targets"] == planned[1] > 0
    assert read_bytes["shards"] < planned[0] <= read_bytes["shards"] + END_BYTES


def test_held_out_samples_are_not_read_while_training(
    config_of: ConfigOf, tmp_path: Path, make_data: Callable[..., Any], make_store: Callable[..., Path]
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data", ("train",)))
    whole, part = (
        Plan.of(config_of(f"train.targets={store}", f"train.val_fraction={share}")).data.train for share in (0, 0.5)
    )
    assert part.rows < whole.rows
    assert shard_bytes(part) == round(shard_bytes(whole) * part.rows / whole.rows)


def test_the_plan_is_what_the_run_then_does(config_of: ConfigOf) -> None:
    config = config_of(LOSSES, "train.allow_view_mismatch=true")
    planned = preview(config)
    result = train(config)
    assert (planned.steps, planned.epochs, planned.train_rows) == (result.steps, result.epochs, result.train_rows)
    assert (planned.student, planned.parameters, planned.multiply_adds) == (
        result.student,
        result.parameters,
        result.multiply_adds,
    )
    assert {loss.name: loss.weight for loss in planned.losses} == result.losses
    assert list(planned.view_mismatch) == result.view_mismatch == ["mse", "kl"]
    assert (planned.device, planned.precision, planned.workers) == (result.device, result.precision, result.workers)
    lines = RunDir(Path(config.train.out)).read_metrics("train")
    assert planned.trial.loss == lines[0]["loss"], "the very first step"
    assert planned.steps_per_epoch * planned.epochs == planned.steps == len(lines)
    compared = {loss.name: (loss.compares, loss.projection) for loss in planned.losses}
    assert compared == {
        "cross_entropy": ("labels", None),
        "class_contrastive": ("3 classes of pooled (5 wide) of mean-colour", (5, 128)),
        "mse": ("rows of pooled (5 wide) of mean-colour", (128, 5)),
        "kl": ("rows of logits (3 wide) of mean-colour", None),
    }
    assert [loss.parameters for loss in planned.losses] == [0, 5 * 128 + 128, 128 * 5 + 5, 0]


def test_a_dry_run_writes_nothing(config_of: ConfigOf, data: Path) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in data.rglob("*")}

    config, before = config_of("train.logs=tensorboard", "train.ema_decay=0.9"), files()
    planned = preview(config)
    assert not Path(config.train.out).exists()
    assert files() == before
    assert planned.trial.average_bytes > 0


def test_memory_is_counted_by_what_it_is_for(config_of: ConfigOf) -> None:
    config = config_of("losses={cross_entropy=1}", "student.drop_path=0")
    trial, learner, _ = try_steps(Plan.of(config), 2)
    count = sum(parameter.numel() for parameter in learner.student.parameters())
    assert trial.parameters_bytes == trial.gradients_bytes == 4 * count
    assert 8 * count <= trial.optimiser_bytes <= 8 * count + 64 * 4, "two moments, and a step count each"
    twice, _, _ = try_steps(Plan.of(replace(config, train=replace(config.train, global_batch_size=16))), 1)
    assert twice.activations_bytes == pytest.approx(2 * trial.activations_bytes, rel=0.01)
    pixels = 8 * 3 * 8 * 8 * 4
    assert trial.activations_bytes > 10 * pixels
    halves = replace(config, train=replace(config.train, accumulate=2))
    assert try_steps(Plan.of(halves), 1)[0].activations_bytes == pytest.approx(trial.activations_bytes / 2, rel=0.02)


def test_what_a_layer_keeps_is_counted_once() -> None:
    layer = torch.nn.Linear(6, 5)
    pixels = torch.zeros(4, 6)

    def gradients(given: torch.Tensor) -> Any:
        said = layer(given).sigmoid()
        loss = (said * said).sum()
        loss.backward()
        return SimpleNamespace(loss=loss.detach().item())

    _, kept = _kept(SimpleNamespace(gradients=gradients), [pixels], layer.parameters())  # type: ignore[arg-type, list-item]
    assert kept == 4 * 6 * 4 + 4 * 5 * 4, "the input, and the sigmoid's output, which two operations keep"


def test_what_a_run_refuses_a_dry_run_refuses(config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="allow-view-mismatch"):
        preview(config_of("losses={mse=1}"))
    monkeypatch.setattr("embedkd.training.logs.opening.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--log wandb"):
        preview(config_of("train.logs=wandb"))
    config = config_of("train.epochs=1")
    train(config)
    with pytest.raises(TrainingError, match="already holds a run"):
        preview(config)
    assert preview(config, resume=True).epochs == 1
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        preview(config_of(out="other"))


def test_bad_data_is_found_before_the_run(
    config_of: ConfigOf, tmp_path: Path, make_data: Callable[..., Any], make_store: Callable[..., Path]
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data"), bad=[3])
    with pytest.raises(JoinError, match="--allow-partial"):
        preview(config_of(f"train.targets={store}"))
    planned = preview(config_of(f"train.targets={store}", "train.allow_partial=true"))
    assert planned.train_rows == 21
    assert any("left out" in line for line in plan_lines(planned))


def test_several_stores_are_read_side_by_side(
    config_of: ConfigOf, tmp_path: Path, make_data: Callable[..., Any], make_store: Callable[..., Path]
) -> None:
    shards = make_data(tmp_path / "data")
    specs = {name: replace(SPEC, name=f"test:{name}", model=name) for name in ("one", "two")}
    stores = [make_store(tmp_path, shards, spec=spec).rename(tmp_path / f"{name}.zarr") for name, spec in specs.items()]
    sets = ("losses={cross_entropy=1, mse=1}", "train.allow_view_mismatch=true")
    alone = preview(config_of(*sets, f"train.targets={stores[0]}"))
    both = preview(config_of(*sets, f"train.targets={json.dumps([str(store) for store in stores])}"))
    assert both.target_bytes == 2 * alone.target_bytes
    assert both.shard_bytes == alone.shard_bytes
    assert [loss.weight for loss in both.losses] == [1.0, 0.5, 0.5]
    assert len({loss.name for loss in both.losses}) == 3


def test_the_command_prints_lines_or_json(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = (
        *("train", "--targets", data / "store.zarr", "--student", "vit-tiny", "--image-px", 8, "--batch-size", 8),
        *("--set", "student.patch_px=4", "--set", "train.workers=0", "--epochs", 2, "--augment", "none", "--dry-run"),
    )
    code, out, err = invoke(capsys, command)
    assert code == 0
    assert "taking 3 steps to see what they cost; nothing is written" in err
    titles = [line[:9].strip() for line in out.splitlines()]
    assert [title for title in titles if title] == [
        *("samples", "steps", "reads", "student", "losses", "device", "memory", "time")
    ]
    assert "6: 2 epochs of 3, of 8 samples each" in out
    code, out, _ = invoke(capsys, (*command, "--json"))
    found = json.loads(out)
    assert (code, found["steps"], found["trial"]["steps"]) == (0, 6, 3)
    assert found["all_bytes"] == 2 * (found["shard_bytes"] + found["target_bytes"])
    assert not list(tmp_path.iterdir())
