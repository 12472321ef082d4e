import math

import pytest
import torch
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from torch.nn import functional as F

from embedkd.errors import LossError
from embedkd.losses import fitted_temperature
from tests.losses.naive import rows


def labels_of(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Labels drawn with the softened probabilities."""
    source = torch.Generator().manual_seed(0)
    return torch.multinomial((logits / temperature).softmax(1), 1, generator=source).squeeze(1)


def test_agrees_with_a_minimiser_of_the_cross_entropy() -> None:
    logits = 5 * rows(200, 6, seed=1)
    labels = labels_of(logits, 3.0)
    found = minimize_scalar(
        lambda log: F.cross_entropy(logits / math.exp(log), labels).item(), bounds=(-4, 4), options={"xatol": 1e-9}
    )

    assert fitted_temperature(logits, labels) == pytest.approx(math.exp(found.x), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_finds_the_temperature_that_labels_were_drawn_with(temperature: float) -> None:
    logits = 3 * rows(20_000, 5, seed=2)

    assert fitted_temperature(logits, labels_of(logits, temperature)) == pytest.approx(temperature, rel=0.05)


def test_scaled_logits_have_a_scaled_temperature() -> None:
    logits = rows(300, 5, seed=3)
    labels = labels_of(logits, 0.5)

    assert fitted_temperature(8 * logits, labels) == pytest.approx(8 * fitted_temperature(logits, labels), rel=1e-9)


def test_bounds() -> None:
    logits = 10 * torch.eye(4)

    assert fitted_temperature(logits, torch.arange(4)) == pytest.approx(0.01)
    assert fitted_temperature(logits, torch.tensor([1, 2, 3, 0])) == pytest.approx(100)


@pytest.mark.parametrize(("logit", "label"), [(math.nan, 0), (math.inf, 0), (-math.inf, 0), (1.0, 5), (1.0, -1)])
def test_what_cannot_be_fitted_is_refused(logit: float, label: int) -> None:
    logits = rows(3, 5, seed=5)
    logits[1, 1] = logit

    with pytest.raises(LossError, match="expected finite logits and labels from 0 to 4"):
        fitted_temperature(logits, torch.tensor([0, 1, label]))
