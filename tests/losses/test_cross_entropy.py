import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from embedkd.errors import LossError
from embedkd.losses import cross_entropy


def naive(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> float:
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(logit) for logit in row))
        for at, logit in enumerate(row):
            share = smoothing / len(row) + (1 - smoothing) * (at == label)
            total -= share * (logit - log_sum)
    return total / len(labels)


def draw_logits(samples: int = 8, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(samples, classes, generator=source, dtype=torch.float64)
    return logits, torch.randint(classes, (samples,), generator=source)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_agrees_with_a_naive_loop(smoothing: float) -> None:
    logits, labels = draw_logits()

    value = cross_entropy(logits, labels, label_smoothing=smoothing)

    assert value.item() == pytest.approx(naive(logits, labels, smoothing), rel=1e-12)


def test_agrees_with_scikit_learn() -> None:
    logits, labels = draw_logits()

    expected = log_loss(labels.numpy(), logits.softmax(dim=1).numpy(), labels=np.arange(5))

    assert cross_entropy(logits, labels).item() == pytest.approx(expected, rel=1e-9)


def test_a_perfect_match_costs_nothing() -> None:
    labels = torch.arange(10)

    assert cross_entropy(1e4 * torch.eye(10), labels).item() == 0
    assert cross_entropy(1e30 * torch.eye(10), labels).item() == 0


@pytest.mark.parametrize(("classes", "smoothing"), [(2, 0.1), (10, 0.1), (100, 0.5)])
def test_with_smoothing_a_perfect_match_costs_the_entropy_of_the_label(classes: int, smoothing: float) -> None:
    right, other = 1 - smoothing + smoothing / classes, smoothing / classes
    logits = torch.full((1, classes), math.log(other), dtype=torch.float64)
    logits[0, 0] = math.log(right)

    value = cross_entropy(logits, torch.tensor([0]), label_smoothing=smoothing)

    entropy = -right * math.log(right) - (classes - 1) * other * math.log(other)
    assert value.item() == pytest.approx(entropy, rel=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 200), st.floats(-1e6, 1e6, width=32), st.floats(0, 0.9))
def test_chance_costs_the_logarithm_of_the_classes(classes: int, level: float, smoothing: float) -> None:
    logits = torch.full((3, classes), level)

    value = cross_entropy(logits, torch.tensor([0, classes // 2, classes - 1]), label_smoothing=smoothing)

    assert value.item() == pytest.approx(math.log(classes), rel=1e-5, abs=1e-6)


def test_logits_are_not_softmaxed_first() -> None:
    # The published code softmaxes twice: 100 classes can then never cost less than 3.62.
    labels = torch.arange(100)
    softmaxed = (1e4 * torch.eye(100)).softmax(dim=1)

    assert cross_entropy(softmaxed, labels).item() == pytest.approx(math.log(math.e + 99) - 1, rel=1e-5)
    assert cross_entropy(1e4 * torch.eye(100), labels).item() == 0


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_a_smoothing_that_leaves_no_label_is_refused(smoothing: float) -> None:
    with pytest.raises(LossError, match=f"label_smoothing from 0 to below 1, got {smoothing}"):
        cross_entropy(*draw_logits(), label_smoothing=smoothing)
