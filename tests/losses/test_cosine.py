import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import paired_cosine_distances
from torch.nn import functional as F

from embedkd.losses import cosine, mse


def draw_rows() -> tuple[torch.Tensor, torch.Tensor]:
    student, target = torch.randn(2, 7, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return student, target


def naive(student: torch.Tensor, target: torch.Tensor) -> list[float]:
    return [
        1 - sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
        for a, b in zip(student.tolist(), target.tolist(), strict=True)
    ]


def test_agrees_with_a_naive_loop_with_torch_and_with_scikit_learn() -> None:
    student, target = draw_rows()

    each = cosine(student, target, reduction="none")

    assert each.tolist() == pytest.approx(naive(student, target), rel=1e-12)
    torch.testing.assert_close(each, 1 - F.cosine_similarity(student, target))
    torch.testing.assert_close(each, F.cosine_embedding_loss(student, target, torch.ones(7), reduction="none"))
    assert each.tolist() == pytest.approx(paired_cosine_distances(student.numpy(), target.numpy()), rel=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 50), st.floats(1e-5, 1e6), st.floats(1e-5, 1e6))
def test_closed_forms(width: int, student_scale: float, target_scale: float) -> None:
    student, target = torch.zeros(2, 1, width, dtype=torch.float64)
    student[0, 0], target[0, -1] = student_scale, target_scale

    assert cosine(student_scale * target, target).item() == pytest.approx(0, abs=1e-12)
    assert cosine(student, target).item() == pytest.approx(1, rel=1e-12)
    assert cosine(-target, target).item() == pytest.approx(2, rel=1e-12)
    assert cosine(torch.zeros_like(target), target).item() == 1


def test_it_is_half_the_width_times_the_error_of_directions() -> None:
    student, target = draw_rows()

    torch.testing.assert_close(cosine(student, target), 9 / 2 * mse(student, target, normalise=True))


def test_extreme_rows_keep_their_directions() -> None:
    student, target = (rows.float() for rows in draw_rows())

    torch.testing.assert_close(cosine(1e35 * student, 1e-8 * target), cosine(student, target))
