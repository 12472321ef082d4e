import math

import pytest
import torch

from embedkd.errors import LossError
from embedkd.losses import LOSSES, similarity_kl
from tests.losses.naive import cosine, divergence, entropy, rows, softmax

STUDENT, TARGET, CLASSES = rows(5, 6, seed=1), rows(5, 6, seed=2), rows(4, 6, seed=3)


def scale(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64).log()


def likely(rows: torch.Tensor, factor: float) -> list[list[float]]:
    return [softmax([factor * cosine(row, one) for one in CLASSES.tolist()]) for row in rows.tolist()]


def test_the_default_scale_of_a_teacher_is_ten() -> None:
    assert LOSSES["similarity_kl"].options == {"teacher_scale": 10.0}


@pytest.mark.parametrize(("teacher", "student"), [(10.0, 14.3), (100.0, 1.0)])
def test_agrees_with_a_naive_loop(teacher: float, student: float) -> None:
    expected = sum(map(divergence, likely(TARGET, teacher), likely(STUDENT, student))) / 5

    value = similarity_kl(STUDENT, TARGET, CLASSES, scale(student), teacher_scale=teacher)

    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_closed_forms() -> None:
    perfect = similarity_kl(7 * TARGET, TARGET, 3 * CLASSES, scale(20), teacher_scale=20.0)
    chance = similarity_kl(torch.zeros_like(TARGET), TARGET, CLASSES, scale(20), teacher_scale=20.0)

    assert perfect.item() == pytest.approx(0, abs=1e-12)
    assert chance.item() == pytest.approx(math.log(4) - sum(map(entropy, likely(TARGET, 20.0))) / 5, rel=1e-12)


def test_the_order_of_classes_does_not_matter() -> None:
    value = similarity_kl(STUDENT, TARGET, CLASSES.flip(0), scale(5))

    torch.testing.assert_close(value, similarity_kl(STUDENT, TARGET, CLASSES, scale(5)))


def test_descent_turns_the_student_towards_what_the_teacher_sees() -> None:
    student, factor = STUDENT.clone(), scale(10)
    for _ in range(300):
        student.requires_grad_()
        (slope,) = torch.autograd.grad(similarity_kl(student, TARGET, CLASSES, factor, reduction="sum"), student)
        student = (student - 0.5 * slope).detach()

    assert similarity_kl(student, TARGET, CLASSES, factor) < 0.01 * similarity_kl(STUDENT, TARGET, CLASSES, factor)


def test_a_scale_of_the_teacher_that_is_none_is_refused() -> None:
    with pytest.raises(LossError, match=r"expected a teacher_scale above 0, got 0.0; 10 is usual"):
        similarity_kl(STUDENT, TARGET, CLASSES, scale(5), teacher_scale=0.0)
