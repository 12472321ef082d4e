"""Students of other kinds than the paper's, in runs: the same bits after any stop, and what BatchNorm needs."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from embedkd.config import Config
from embedkd.errors import ConfigError, Interrupted, UnknownNameError
from embedkd.progress import Silent
from embedkd.records import OutputSpec
from embedkd.rundir import RunDir, read_json
from embedkd.store import open_store
from embedkd.training import load_student, train
from embedkd.training.checkpoint import read_checkpoint
from embedkd.training.data import open_data
from embedkd.training.plan import Plan
from embedkd.training.terms import build_terms
from tests.training.conftest import SPEC

ConfigOf = Callable[..., Config]
KINDS = {
    "batch norm": ("student.name=timm:test_resnet", "student.drop_path=0.2"),
    "drop path": ("student.name=timm:test_vit", "student.patch_px=8", "student.drop_path=0.3"),
    "masked": ("student.name=vit-tiny", "student.patch_px=4", "student.mask_ratio=0.5"),
}
SIZES = ("student.image_px=16", "student.patch_px=none", "train.epochs=2")


class StopAt(Silent):
    """Ends the process's run after a step, as a pre-empted node would."""

    def __init__(self, step: int) -> None:
        self.steps, self._step = 0, step

    def advance(self, count: int, note: str = "") -> None:
        self.steps += count
        if self.steps == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


def traces(config: Config) -> tuple[bytes, dict[str, torch.Tensor], list[dict[str, Any]]]:
    run = RunDir(Path(config.train.out))
    metrics = [{k: v for k, v in line.items() if k != "elapsed_s"} for line in run.read_metrics()]
    return run.weights.read_bytes(), read_checkpoint(run.checkpoint).student, metrics


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_ends_as_if_it_was_not(config_of: ConfigOf, kind: str) -> None:
    whole, stopped = (config_of(*SIZES, *KINDS[kind], out=out) for out in ("whole", "stopped"))
    train(whole)
    for step in (1, 1, 2):  # within and at the end of an epoch of three steps
        with pytest.raises(Interrupted):
            train(stopped, resume=True, progress=StopAt(step))
    train(stopped, resume=True)

    weights, state, metrics = traces(stopped)
    expected = traces(whole)
    assert weights == expected[0]
    assert state.keys() == expected[1].keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected[1].items())
    assert metrics == expected[2]
    assert len({line["loss"] for line in metrics if line["kind"] == "train"}) == 6


def test_statistics_of_batches_are_saved_and_not_moved_by_validation(config_of: ConfigOf) -> None:
    config = config_of(*SIZES, *KINDS["batch norm"])
    train(config)
    run = RunDir(Path(config.train.out))

    student, _ = load_student(run)
    state = safetensors.torch.load_file(run.weights)

    seen = [tensor for name, tensor in state.items() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in seen} <= {3, 6}, "three steps an epoch, and nothing else"
    means = [tensor for name, tensor in state.items() if name.endswith("running_mean")]
    assert any(mean.any() for mean in means)
    pixels = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(student(pixels).logits[:1], student(pixels[:1]).logits)


@pytest.mark.parametrize("batch_size", [7, 21, 1])
def test_a_last_step_of_one_sample_is_refused_where_batch_norm_needs_two(config_of: ConfigOf, batch_size: int) -> None:
    config = config_of(*SIZES, *KINDS["batch norm"], f"train.global_batch_size={batch_size}")

    with pytest.raises(
        ConfigError, match=rf"test_resnet has BatchNorm.* of 22 samples an epoch batches of {batch_size}"
    ):
        train(config)

    assert not Path(config.train.out).exists()


def test_a_last_step_of_one_sample_is_fine_without_batch_norm(config_of: ConfigOf) -> None:
    config = config_of(*SIZES, *KINDS["drop path"], "train.global_batch_size=7", "losses={cross_entropy=1.0}")

    assert train(config).steps == 8


def test_the_cost_of_a_student_is_told_and_kept(config_of: ConfigOf) -> None:
    lines: list[str] = []

    class Watch(Silent):
        def line(self, text: str) -> None:
            lines.append(text)

    config = config_of(*SIZES, *KINDS["batch norm"], "train.epochs=1")
    result = train(config, progress=Watch())

    card = read_json(RunDir(Path(config.train.out)).student)
    assert card["parameters"] == result.parameters == 372_979
    assert card["multiply_adds"] == result.multiply_adds > 1_000_000
    assert (
        f"note: timm:test_resnet has 372,979 parameters, {result.multiply_adds:,} multiply-adds an image of 16 px"
        in lines
    )


def test_a_student_that_begins_with_weights_is_normalised_by_theirs(config_of: ConfigOf, tmp_path: Path) -> None:
    donor = timm.create_model("test_vit", num_classes=3, img_size=16, patch_size=8)
    numbers = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
    timm.models.save_for_hf(donor, tmp_path / "donor", safe_serialization=True, data_config=numbers)
    config = config_of(
        *SIZES, f"student.name=timm:test_vit@{tmp_path / 'donor'}", "student.patch_px=8", "optimiser.lr=1e-9"
    )

    train(config)

    student, card = load_student(RunDir(Path(config.train.out)))
    assert (card.name, card.mean, card.std) == ("timm:test_vit", (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert card.begun_from is not None
    assert str(tmp_path) not in card.begun_from, "a run may be shared"
    torch.testing.assert_close(student.model.state_dict(), donor.state_dict(), rtol=0, atol=1e-6)


def test_images_of_training_and_validation_are_normalised_by_the_student_s_numbers(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    donor = timm.create_model("test_vit", num_classes=3, img_size=16, patch_size=8)
    numbers = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
    timm.models.save_for_hf(donor, tmp_path / "donor", safe_serialization=True, data_config=numbers)

    found = []
    for weights in ("", f"@{tmp_path / 'donor'}"):
        plan = Plan.of(config_of(*SIZES, f"student.name=timm:test_vit{weights}", "student.patch_px=8"))
        _, card = plan.build()
        mean, std = (torch.tensor(three).view(3, 1, 1) for three in (card.mean, card.std))
        held_out = plan.held_out_batches(card, plan.data.val)
        assert held_out is not None
        found.append([next(iter(loader)).pixels * std + mean for loader in (plan.training_batches(card, 0), held_out)])

    for scratch, begun in zip(*found, strict=True):
        torch.testing.assert_close(scratch, begun, rtol=0, atol=1e-5)


def test_an_inner_layer_is_compared_where_a_loss_names_one(config_of: ConfigOf) -> None:
    config = config_of(
        *SIZES,
        *KINDS["batch norm"],
        "losses={cross_entropy=0.5, mse=0.5}",
        'loss_options={mse={tap="patch_mean@1"}}',
        "train.allow_view_mismatch=true",
    )

    train(config)

    student, card = load_student(RunDir(Path(config.train.out)))
    assert card.options.taps == ("patch_mean@1",)
    assert student(torch.zeros(2, 3, 16, 16)).taps["patch_mean@1"].shape == (2, student.tap_dims["patch_mean@1"])
    projection = read_checkpoint(RunDir(Path(config.train.out)).checkpoint).objective
    assert any(tensor.shape[-1] == student.tap_dims["patch_mean@1"] for tensor in projection.values())


def test_an_inner_layer_is_compared_with_one_of_the_teacher(
    config_of: ConfigOf, data: Path, tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    width = SPEC.outputs[0].dim
    spec = replace(SPEC, outputs=(*SPEC.outputs, OutputSpec("cls", width)), layers=6)
    (tmp_path / "data").symlink_to(data / "data")
    store = make_store(tmp_path, open_store(data / "store.zarr").shards, spec=spec, outputs=("pooled", "cls@-4"))
    config = config_of(
        f"train.targets={store}",
        "losses={cross_entropy=0.5, mse=0.5}",
        'loss_options={mse={output="cls@-4", tap="cls@-2"}}',
        *("augment.flip=0", "augment.crop_padding_px=0", "train.epochs=1"),
    )

    train(config)

    run = RunDir(Path(config.train.out))
    student, card = load_student(run)
    assert card.options.taps == ("cls@-2",)
    (weight,) = (one for name, one in read_checkpoint(run.checkpoint).objective.items() if name.endswith("weight"))
    assert weight.shape == (width, student.tap_dims["cls@-2"])
    made = open_data(config, build_terms(config.losses, config.loss_options))
    assert [target.output for target in made.train.targets] == ["cls@-4"]


def test_a_layer_that_the_student_lacks_is_told_before_anything_is_written(config_of: ConfigOf) -> None:
    config = config_of(
        *SIZES,
        *KINDS["batch norm"],
        "losses={mse=1.0}",
        'loss_options={mse={tap="cls@1"}}',
        "train.allow_view_mismatch=true",
    )

    with pytest.raises(UnknownNameError, match="unknown inner layer of timm:test_resnet 'cls@1'"):
        train(config)

    assert not Path(config.train.out).exists()


def test_a_student_s_own_arguments_are_part_of_what_a_resumed_run_shares(config_of: ConfigOf) -> None:
    plain, other = config_of(), config_of("student.options={drop_rate=0.1}")

    assert plain.training_facts() != other.training_facts()
