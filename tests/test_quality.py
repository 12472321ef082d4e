"""The quality benchmark's own arithmetic: who has labels, what is compared, and how sure one can be."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import CONTENDERS, Run, compare, interval
from benchmarks.quality_folds import Fold, assign_folds, with_labels, without_a_lonely_one
from embedkd.sources.fields import NO_LABEL
from embedkd.sources.items import PackItem

CLASSES, ROWS = 3, 20


def items() -> list[PackItem]:
    return [PackItem(f"{label}/{row}.png", "png", label, bytes) for label in range(CLASSES) for row in range(ROWS)]


def run_of(name: str, tmp_path: Path, *, seed: int = 0, epochs: int = 24) -> Run:
    (tmp_path / "facts.json").write_text(json.dumps({"train": 1250, "labelled": 350, "head_top1": 0.5}))
    return Run(name, Fold(0, tmp_path), seed, (f"train.epochs={epochs}",))


def test_folds_divide_every_class_evenly() -> None:
    fold_of = assign_folds(items(), 5)
    for label in range(CLASSES):
        assert Counter(fold_of[label * ROWS : (label + 1) * ROWS].tolist()) == dict.fromkeys(range(5), 4)


@pytest.mark.parametrize("shots", [1, 5, 0])
def test_so_many_images_a_class_keep_their_label(shots: int) -> None:
    train = np.flatnonzero(assign_folds(items(), 5) != 2)
    found = with_labels(items(), train, shots, 2)
    assert [item.name for item in found] == [items()[at].name for at in train]
    labels = Counter(item.label for item in found)
    assert all(labels[label] == (shots or 16) for label in range(CLASSES))
    assert labels[NO_LABEL] == len(train) - CLASSES * (shots or 16)
    true = {item.name: item.label for item in items()}
    assert all(item.label in {NO_LABEL, true[item.name]} for item in found)
    assert all(item.split == "train" for item in found)


def test_the_choice_of_labels_is_another_one_in_another_fold() -> None:
    train = np.arange(len(items()))
    first, second = ([item.label for item in with_labels(items(), train, 5, fold)] for fold in (0, 1))
    assert first != second
    assert first == [item.label for item in with_labels(items(), train, 5, 0)]


@pytest.mark.parametrize(("rows", "left"), [(33, 32), (65, 64), (32, 32), (34, 34)])
def test_no_batch_is_of_one_image(rows: int, left: int) -> None:
    labelled = [replace(items()[0], name=str(at), label=at if at < 5 else NO_LABEL) for at in range(rows)]
    found = without_a_lonely_one(labelled)
    assert len(found) == left
    assert found[:5] == labelled[:5]


def test_every_contender_sees_as_many_images(tmp_path: Path) -> None:
    for name, who in CONTENDERS.items():
        config = run_of(name, tmp_path).config()
        assert config.train.keep_unlabelled is not who.labels
        seen = config.train.epochs * (350 if who.labels else 1250)
        assert abs(seen - 24 * 1250) <= 350 / 2, name


def test_contenders_differ_in_nothing_but_what_they_state(tmp_path: Path) -> None:
    candidate = run_of("labels + kl + mse", tmp_path).config()
    for name, who in CONTENDERS.items():
        config = run_of(name, tmp_path).config()
        assert (config.student, config.optimiser) == (candidate.student, candidate.optimiser)
        assert (config.augment == candidate.augment) == (not any("augment" in one for one in who.sets)), name
        assert config.train.val_fraction == 0


def test_answers_of_other_settings_lie_elsewhere(tmp_path: Path) -> None:
    runs = [run_of(name, tmp_path) for name in CONTENDERS]
    runs += [run_of("labels + kl + mse", tmp_path, seed=1), run_of("labels + kl + mse", tmp_path, epochs=2)]
    assert len({run.answers for run in runs}) == len(runs)
    assert run_of("labels + kl + mse", tmp_path).answers == run_of("labels + kl + mse", tmp_path).answers


def test_an_interval_is_that_of_the_normal_distribution() -> None:
    differences = np.random.default_rng(0).normal(0.08, 0.5, 1_600)
    mean, low, high = interval(differences, resamples=2_000)
    half = 196 * differences.std() / np.sqrt(len(differences))
    assert mean == pytest.approx(100 * differences.mean())
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.08)


def test_pairs_are_pairs_of_the_same_image() -> None:
    facts = compare(
        {
            "supervised": {"a": [True, False], "b": [False, False], "c": [True, True]},
            "labels + kl + mse": {"c": [True, True], "b": [True, False], "a": [True, True]},
            "reference": {"a": [False, False]},
        }
    )
    assert facts["labels + kl + mse"]["top1"] == pytest.approx(100 * 5 / 6)
    assert facts["labels + kl + mse"]["against supervised"][0] == pytest.approx(100 / 3)
    assert facts["labels + kl + mse"]["against reference"] == (100, 100, 100), "the one that both were asked"
    assert "against supervised" not in facts["supervised"]
