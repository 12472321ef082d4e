import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_squared_error
from sklearn.preprocessing import normalize
from torch.nn import functional as F

from embedkd.losses import LOSSES, mse


def draw_rows() -> tuple[torch.Tensor, torch.Tensor]:
    student, target = torch.randn(2, 7, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return student, target


def naive(student: torch.Tensor, target: torch.Tensor) -> float:
    pairs = zip(student.flatten().tolist(), target.flatten().tolist(), strict=True)
    return math.fsum((a - b) ** 2 for a, b in pairs) / student.numel()


def test_rows_are_compared_as_they_are_by_default() -> None:
    assert LOSSES["mse"].options == {"normalise": False}


def test_agrees_with_a_naive_loop_with_torch_and_with_scikit_learn() -> None:
    student, target = draw_rows()

    value = mse(student, target).item()

    assert value == pytest.approx(naive(student, target), rel=1e-12)
    assert value == pytest.approx(F.mse_loss(student, target).item(), rel=1e-12)
    assert value == pytest.approx(mean_squared_error(target.numpy(), student.numpy()), rel=1e-12)


def test_of_directions_agrees_with_a_naive_loop_and_with_scikit_learn() -> None:
    student, target = draw_rows()
    unit_student, unit_target = (normalize(rows.numpy()) for rows in (student, target))

    value = mse(student, target, normalise=True).item()

    assert value == pytest.approx(naive(torch.from_numpy(unit_student), torch.from_numpy(unit_target)), rel=1e-12)
    assert value == pytest.approx(mean_squared_error(unit_target, unit_student), rel=1e-12)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_perfect_match_costs_nothing(normalise: bool) -> None:
    _, target = draw_rows()

    assert mse(target, target, normalise=normalise).item() == 0


def test_a_student_that_says_zero_pays_the_mean_square_of_the_target() -> None:
    _, target = draw_rows()

    assert mse(torch.zeros_like(target), target).item() == pytest.approx(np.square(target.numpy()).mean(), rel=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 50), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_closed_forms_of_directions(width: int, student_scale: float, target_scale: float) -> None:
    student, target = torch.zeros(2, 1, width, dtype=torch.float64)
    student[0, 0], target[0, -1] = student_scale, target_scale

    assert mse(student_scale * target, target, normalise=True).item() == pytest.approx(0, abs=1e-12)
    assert mse(student, target, normalise=True).item() == pytest.approx(2 / width, rel=1e-12)
    assert mse(-target, target, normalise=True).item() == pytest.approx(4 / width, rel=1e-12)


def test_directions_do_not_overflow_where_squares_would() -> None:
    student, target = (1e30 * rows.float() for rows in draw_rows())

    assert mse(student, target, normalise=True).isfinite()
