"""Runs with the teacher in the loop, beside the same runs from stored rows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from embedkd.config import RECIPES, AverageConfig, Config
from embedkd.config.tuning import HeadConfig
from embedkd.errors import ConfigError, Interrupted, TrainingError
from embedkd.heads import make_head
from embedkd.online import train_online
from embedkd.rundir import RunDir
from embedkd.store import TeacherView
from embedkd.training import train
from embedkd.training.memory import PeakMemory
from tests.online.conftest import UNAUGMENTED, ConfigOf, Loaded


def curve(config: Config) -> list[dict[str, Any]]:
    """Every line of the metrics but for the time it took."""
    lines = RunDir(Path(config.train.out)).metrics.read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "elapsed_s"} for line in lines]


def test_without_augmentation_it_is_the_stored_run(config_of: ConfigOf) -> None:
    exact = (*UNAUGMENTED, "loss_options.mse.output=pooled")  # which is stored in float32
    stored, online = config_of(*exact, out="stored"), config_of(*exact, out="online")
    train(stored)
    result = train_online(online)
    assert result.online_teacher
    assert "with the teacher in the loop" in str(result)
    assert curve(online) == curve(stored)


def test_hinton_with_the_teacher_and_its_head_in_the_loop(view: TeacherView, config_of: ConfigOf) -> None:
    make_head(HeadConfig(store=view.store.storage.url, output="pooled", folds=2, device="cpu"), AverageConfig())
    losses = dict(RECIPES["hinton"].losses)
    stored, online = (config_of(*UNAUGMENTED, losses=losses, out=out) for out in ("stored", "online"))
    assert train(stored).teacher == f"{view.spec.name}+linear"
    train_online(online)
    for ours, theirs in zip(curve(online), curve(stored), strict=True):
        if ours["kind"] == "train":
            assert ours["terms"] == pytest.approx(theirs["terms"], rel=2e-3)
            assert ours["terms"]["kl"] > 0


def test_rows_differ_by_their_encoding_alone(config_of: ConfigOf) -> None:
    rounded = (*UNAUGMENTED, "loss_options.mse.output=cls")
    stored, online = config_of(*rounded, out="stored"), config_of(*rounded, out="online")
    train(stored)
    train_online(online)
    pairs = [(a["loss"], b["loss"]) for a, b in zip(curve(stored), curve(online), strict=True) if a["kind"] == "train"]
    assert len(pairs) == 8
    assert all(ours == pytest.approx(theirs, rel=1e-3) for theirs, ours in pairs)
    assert any(ours != theirs for theirs, ours in pairs)


def test_moved_views_are_no_mismatch(config_of: ConfigOf, loaded: Loaded) -> None:
    moved = ("augment.min_crop_area=0.4", "augment.flip=0.5")
    with pytest.raises(ConfigError, match="--allow-view-mismatch"):
        train(config_of(*moved))
    result = train_online(config_of(*moved))
    assert result.view_mismatch == []
    (teacher,) = loaded.teachers
    assert teacher.batches == [4, 4, 4, 1] * 2  # every sample once an epoch


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = ("augment.flip=0.5", "augment.min_crop_area=0.5")
    whole, cut = config_of(*moved, out="whole"), config_of(*moved, out="cut")
    train_online(whole)
    asked = iter([False] * 3 + [True])
    with monkeypatch.context() as patch:
        patch.setattr("embedkd.training.distributed.Ranks.agreed", lambda ranks, wish: lambda: next(asked))
        with pytest.raises(Interrupted):
            train_online(cut)
    train_online(cut, resume=True)
    assert curve(cut) == curve(whole)
    weights = [RunDir(Path(config.train.out)).weights.read_bytes() for config in (whole, cut)]
    assert weights[0] == weights[1]


def test_the_memory_of_a_run_includes_its_teacher(
    config_of: ConfigOf, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers_at_its_start: list[int] = []

    class Noted(PeakMemory):
        def __init__(self, device: torch.device) -> None:
            teachers_at_its_start.append(len(loaded.teachers))
            super().__init__(device)

    monkeypatch.setattr("embedkd.training.stage.PeakMemory", Noted)
    train_online(config_of(*UNAUGMENTED, "train.epochs=1"))
    assert teachers_at_its_start == [0]
    assert len(loaded.teachers) == 1


def test_the_two_ways_are_not_mixed_in_one_run(config_of: ConfigOf) -> None:
    train_online(config_of(*UNAUGMENTED))
    with pytest.raises(TrainingError, match=r"train\.online_teacher"):
        train(config_of(*UNAUGMENTED), resume=True)


def test_one_without_the_other_is_refused(config_of: ConfigOf) -> None:
    with pytest.raises(ConfigError, match=r"use embedkd\.online"):
        train(config_of("train.online_teacher=true"))


def test_what_a_teacher_cannot_be_shown(config_of: ConfigOf) -> None:
    operations = ("augment.rand_augment=2", "augment.flip=0.5")
    with pytest.raises(ConfigError, match=r"augment\.rand_moves: expected false"):
        train_online(config_of(*operations))
    train_online(config_of(*operations, "augment.rand_moves=false"))


def test_losses_that_ask_no_teacher(config_of: ConfigOf) -> None:
    with pytest.raises(ConfigError, match="expected a loss that compares with what the teacher says of each image"):
        train_online(config_of(losses={"cross_entropy": 1.0}))


def test_weights_may_lie_elsewhere_by_now(config_of: ConfigOf, loaded: Loaded) -> None:
    train_online(config_of("train.online_weights=vit:moved", "precompute.trust_code=mine"))
    (name, options), *more = loaded.asked
    assert not more
    assert (name, options.device, options.precision, options.trusted_code) == ("vit:moved", "cpu", "float32", "mine")
