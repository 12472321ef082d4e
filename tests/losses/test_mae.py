import math

import pytest
import torch
from sklearn.metrics import mean_absolute_error
from sklearn.preprocessing import normalize
from torch.nn import functional as F

from embedkd.losses import LOSSES, mae
from tests.losses.naive import rows


def test_rows_are_compared_as_they_are_by_default() -> None:
    assert LOSSES["mae"].options == {"normalise": False}


def test_agrees_with_a_naive_loop_with_torch_and_with_scikit_learn() -> None:
    student, target = rows(2, 7, 9, seed=1)
    pairs = zip(student.flatten().tolist(), target.flatten().tolist(), strict=True)

    value = mae(student, target).item()

    assert value == pytest.approx(math.fsum(abs(a - b) for a, b in pairs) / 63, rel=1e-12)
    assert value == pytest.approx(F.l1_loss(student, target).item(), rel=1e-12)
    assert value == pytest.approx(mean_absolute_error(target.numpy(), student.numpy()), rel=1e-12)


def test_of_directions_agrees_with_scikit_learn() -> None:
    student, target = rows(2, 7, 9, seed=2)

    value = mae(5 * student, target, normalise=True).item()

    assert value == pytest.approx(mean_absolute_error(normalize(target.numpy()), normalize(student.numpy())), rel=1e-12)


@pytest.mark.parametrize("normalise", [False, True])
def test_closed_forms(normalise: bool) -> None:
    target = rows(7, 9, seed=3)

    assert mae(target, target, normalise=normalise).item() == 0
    assert mae(torch.zeros_like(target), target).item() == pytest.approx(target.abs().mean().item(), rel=1e-12)
