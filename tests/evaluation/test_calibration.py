import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax  # type: ignore[import-untyped]
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from embedkd.evaluation.calibration import (
    Answers,
    calibration,
    equal_mass_edges,
    equal_width_edges,
    fit_temperature,
    reliability,
)
from embedkd.evaluation.estimate import Estimate

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


def draw_answers(seed: int, rows: int = 300, classes: int = 7, sharpness: float = 1.0) -> tuple[Logits, Labels]:
    """Labels drawn from the very probabilities that the logits mean before they are sharpened."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 2, (rows, classes))
    cumulated = softmax(logits, axis=1).cumsum(axis=1)
    labels = (draw.random((rows, 1)) < cumulated).argmax(axis=1)
    return (sharpness * logits).astype(np.float32), labels.astype(np.int64)


def measured(logits: Logits, labels: Labels, temperature: float | None = None) -> dict[str, Estimate]:
    return dict(calibration(logits, labels, temperature=temperature, replicates=60))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.sampled_from([0.3, 1.0, 4.0]))
def test_agrees_with_scikit_learn_and_torchmetrics(seed: int, classes: int, sharpness: float) -> None:
    logits, labels = draw_answers(seed, 80, classes, sharpness)
    probabilities = softmax(logits.astype(np.float64), axis=1)
    found = dict(calibration(logits, labels, replicates=2))
    known = np.arange(classes)
    assert found["nll"].value == pytest.approx(log_loss(labels, probabilities, labels=known), rel=1e-9)
    brier = brier_score_loss(labels, probabilities, labels=known, scale_by_half=False)
    assert found["brier"].value == pytest.approx(brier, rel=1e-9)
    error = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(labels), classes, n_bins=15)
    assert found["ece"].value == pytest.approx(float(error), abs=1e-6)
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    assert found["overconfidence"].value == pytest.approx(confidence.mean() - hits.mean())
    if hits.all() or not hits.any():
        assert "auroc" not in found
    else:
        assert found["auroc"].value == pytest.approx(roc_auc_score(hits, confidence))


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_bins_are_those_of_scikit_learns_calibration_curve(strategy: str) -> None:
    logits, labels = draw_answers(3, 500)
    answers = Answers.of(logits, labels)
    shares, confidences = calibration_curve(answers.hits, answers.confidence, n_bins=10, strategy=strategy)
    edges = equal_width_edges(10) if strategy == "uniform" else equal_mass_edges(answers.confidence, 10)
    rows = np.histogram(answers.confidence, edges)[0]
    expected = (np.abs(shares - confidences) * rows[rows > 0]).sum() / 500
    name = "ece" if strategy == "uniform" else "ece_mass"
    assert dict(calibration(logits, labels, bins=10, replicates=2))[name].value == pytest.approx(expected)
    if strategy == "uniform":
        bins = reliability(answers, 10)
        assert [one.hits / one.rows for one in bins] == pytest.approx(shares)
        assert [one.confidence for one in bins] == pytest.approx(confidences)
        assert sum(one.rows for one in bins) == 500
        assert all(one.low < one.confidence <= one.high for one in bins)


def test_the_scores_are_the_naive_sums() -> None:
    logits, labels = draw_answers(5, 40, 3)
    for temperature in (1.0, 2.5):
        nll, brier = [], []
        for row, label in zip(logits.astype(np.float64), labels, strict=True):
            exps = [math.exp(value / temperature) for value in row]
            probabilities = [value / sum(exps) for value in exps]
            nll.append(-math.log(probabilities[label]))
            brier.append(sum((p - (c == label)) ** 2 for c, p in enumerate(probabilities)))
        answers = Answers.of(logits, labels, temperature)
        assert answers.nll == pytest.approx(nll)
        assert answers.brier == pytest.approx(brier)


def test_a_student_that_is_sure_and_right_is_perfect() -> None:
    labels = np.arange(12) % 4
    found = measured(60 * np.eye(4, dtype=np.float32)[labels], labels)
    for name in ("nll", "brier", "ece", "ece_mass", "ece_floor", "overconfidence"):
        assert found[name].value == pytest.approx(0, abs=1e-12)
    assert "auroc" not in found


def test_a_student_that_says_the_same_of_every_class_is_at_chance() -> None:
    found = measured(np.zeros((40, 4), np.float32), np.arange(40) % 4)
    assert found["nll"].value == pytest.approx(math.log(4))
    assert found["brier"].value == pytest.approx(0.75)
    assert found["ece"].value == pytest.approx(0, abs=1e-12)  # it says a quarter, and is right in a quarter
    assert found["auroc"].value == 0.5


def test_a_calibrated_student_is_at_the_floor_and_a_sharpened_one_above_it() -> None:
    calibrated, labels = draw_answers(7, 1000)
    at, above = measured(calibrated, labels), measured(4 * calibrated, labels)
    floor = at["ece_floor"]
    assert floor.low is not None
    assert floor.high is not None
    assert floor.low <= at["ece"].value <= floor.high
    assert above["ece"].value > 3 * floor.high
    assert above["overconfidence"].value == pytest.approx(above["ece"].value, abs=0.02)
    assert abs(at["overconfidence"].value) < 0.04


def test_the_floor_is_the_mean_over_students_that_are_right_as_often_as_they_say() -> None:
    logits, _ = draw_answers(8, 150)
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    draw, errors = np.random.default_rng(0), []
    for _ in range(300):
        labels = np.where(draw.random(150) < confidence, logits.argmax(axis=1), logits.argmin(axis=1))
        errors.append(dict(calibration(logits, labels, replicates=1))["ece"].value)
    floor = dict(calibration(logits, labels, replicates=300))["ece_floor"]
    assert floor.value == pytest.approx(np.mean(errors), rel=0.06)
    assert (floor.low, floor.high) == pytest.approx(tuple(np.percentile(errors, (2.5, 97.5))), rel=0.15)


def test_the_fitted_temperature_undoes_a_sharpening() -> None:
    logits, labels = draw_answers(9, 4000, sharpness=3.0)
    found = measured(logits, labels, fit_temperature(*draw_answers(10, 4000, sharpness=3.0)))
    assert found["temperature"].value == pytest.approx(3, rel=0.1)
    assert found["temperature"].low is None
    assert found["ece_scaled"].value < 0.03 < found["ece"].value
    assert found["nll_scaled"].value < found["nll"].value
    assert found["brier_scaled"].value < found["brier"].value


def test_temperature_one_changes_nothing_and_none_is_not_measured() -> None:
    logits, labels = draw_answers(11)
    found = measured(logits, labels, 1.0)
    for name in ("nll", "brier", "ece"):
        assert found[f"{name}_scaled"] == found[name]
    assert not [name for name in measured(logits, labels) if "scaled" in name or name == "temperature"]


def test_extreme_logits_stay_finite() -> None:
    logits = np.array([[3e38, -3e38], [-3e38, 3e38], [0, 0]], np.float32)
    found = measured(logits, np.array([0, 0, 1]))
    assert all(math.isfinite(one.value) for one in found.values())


def test_the_order_of_samples_means_nothing() -> None:
    logits, labels = draw_answers(12, 100)
    logits = logits.round(1)  # ties
    order = np.random.default_rng(0).permutation(100)
    ours, theirs = measured(logits, labels), measured(logits[order], labels[order])
    for name, found in ours.items():
        assert theirs[name].value == pytest.approx(found.value, abs=0.02 if name == "ece_floor" else 1e-9)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_refuses_what_is_no_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature above 0"):
        Answers.of(*draw_answers(0, 3), temperature)


def test_names_what_does_not_fit() -> None:
    logits, labels = draw_answers(0, 3, 2)
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(2,\)"):
        list(calibration(logits, labels[:2]))
    with pytest.raises(ValueError, match="at least 1 bin"):
        list(calibration(logits, labels, bins=0))
