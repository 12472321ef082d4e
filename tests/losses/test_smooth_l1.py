import pytest
import torch
from torch.nn import functional as F

from embedkd.errors import LossError
from embedkd.losses import LOSSES, mse, smooth_l1
from tests.losses.naive import huber, rows


def test_options_and_their_defaults() -> None:
    assert LOSSES["smooth_l1"].options == {"beta": 1.0, "normalise": False}


def test_agrees_with_a_naive_loop() -> None:
    student, target = 2 * rows(2, 7, 9, seed=1)
    pairs = list(zip(student.flatten().tolist(), target.flatten().tolist(), strict=True))

    value = smooth_l1(student, target).item()

    assert any(abs(a - b) > 1 for a, b in pairs)
    assert any(abs(a - b) < 1 for a, b in pairs)
    assert value == pytest.approx(sum(huber(a, b) for a, b in pairs) / 63, rel=1e-12)


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_agrees_with_torch(beta: float) -> None:
    student, target = 2 * rows(2, 7, 9, seed=2)

    assert smooth_l1(student, target, beta=beta).item() == pytest.approx(
        F.smooth_l1_loss(student, target, beta=beta).item(), rel=1e-12
    )


def test_below_beta_it_is_half_the_squared_error_over_beta() -> None:
    student, target = rows(2, 7, 9, seed=3)

    assert smooth_l1(student, target, beta=100.0).item() == pytest.approx(mse(student, target).item() / 200, rel=1e-12)


def test_closed_forms() -> None:
    target = rows(7, 9, seed=4)

    assert smooth_l1(3 * target, target, normalise=True).item() == pytest.approx(0, abs=1e-15)
    assert smooth_l1(torch.zeros(1, 2), torch.tensor([[3.0, 0.5]])).item() == (2.5 + 0.125) / 2


@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_a_beta_that_cannot_divide_is_refused(beta: float) -> None:
    with pytest.raises(LossError, match=f"losses.smooth_l1: expected a beta above 0, got {beta}; 1 is usual"):
        smooth_l1(*rows(2, 3, 4, seed=5), beta=beta)
