"""Counts and the temperature, against closed forms."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from embedkd.heads.scores import TEMPERATURES, Score


def draw(scale: float, rows: int = 4000) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits whose softmax is the truth, times a scale."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, 5)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in p], np.int64)
    return logits * scale, labels


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_scale(scale: float) -> None:
    logits, labels = draw(scale)
    score = Score()
    for part in (slice(0, 1000), slice(1000, 4000)):
        score.add(logits[part], labels[part], calibrate=True)
    assert score.temperature is not None
    assert 0.85 < score.temperature / scale < 1.18, "two steps of the grid"
    assert score.top1 == (logits.argmax(1) == labels).mean()


def test_the_losses_are_cross_entropies() -> None:
    logits, labels = draw(1.0, rows=50)
    score = Score()
    score.add(logits, labels, calibrate=True)
    for temperature, loss in zip(TEMPERATURES, score.losses, strict=True):
        reference = torch.nn.functional.cross_entropy(
            torch.from_numpy(logits) / temperature, torch.from_numpy(labels), reduction="sum"
        )
        assert loss == pytest.approx(float(reference))


def test_nothing_measured_is_none() -> None:
    assert (Score().top1, Score().temperature) == (None, None)
    score = Score()
    score.add(*draw(1.0, rows=5), calibrate=False)
    assert score.temperature is None
