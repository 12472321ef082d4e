"""The re-enacted training of CLIP-Embed-KD: that what is compared with is what was published."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.reference import LR, WEIGHT_DECAY, reference_loss, train_reference
from embedkd.config import Config

ConfigOf = Callable[..., Config]


def naive(logits: np.ndarray, embedding: np.ndarray, labels: np.ndarray, means: np.ndarray) -> float:
    """Sample by sample in float64: probabilities go through a softmax again, and cosines have no temperature."""

    def cross_entropy(values: np.ndarray, label: int) -> float:
        return float(np.log(np.exp(values).sum()) - values[label])

    total = 0.0
    for row, vector, label in zip(logits, embedding, labels, strict=True):
        probabilities = np.exp(row) / np.exp(row).sum()
        cosines = np.array([vector @ mean / np.linalg.norm(vector) / np.linalg.norm(mean) for mean in means])
        total += cross_entropy(probabilities, label) + 0.5 * cross_entropy(cosines, label)
    return total / len(labels)


def test_the_loss_is_that_of_the_published_code() -> None:
    rng = np.random.default_rng(3)
    logits, embedding, means = rng.normal(size=(6, 4)), rng.normal(size=(6, 5)), rng.normal(size=(4, 5))
    labels = np.array([0, 1, 2, 3, 1, 0])
    found = reference_loss(*(torch.from_numpy(part) for part in (logits, embedding, labels, means)))
    assert float(found) == pytest.approx(naive(logits, embedding, labels, means), rel=1e-12)


def test_right_answers_still_cost_what_they_cost_there() -> None:
    rows, right = torch.eye(100), torch.arange(100)
    assert float(reference_loss(1000 * rows, rows, right, rows)) == pytest.approx(1.5 * 3.622, abs=1e-3)


def test_the_rate_stays_and_the_test_split_chooses(config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[tuple[float, float]] = []
    step = torch.optim.AdamW.step

    def seen(self: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.extend((group["lr"], group["weight_decay"]) for group in self.param_groups)
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", seen)
    found = train_reference(config_of("train.epochs=4", "optimiser.lr=0.5"), torch.eye(3, 7))
    assert set(rates) == {(LR, WEIGHT_DECAY)} == {(1e-4, 0.1)}
    assert len(rates) == 4 * 3
    assert len(found.top1) == 4
    assert found.top1[found.best_epoch - 1] == max(found.top1)
    assert sum(found.right_best.values()) / len(found.right_best) == max(found.top1)
    assert sum(found.right_last.values()) / len(found.right_last) == found.top1[-1]
