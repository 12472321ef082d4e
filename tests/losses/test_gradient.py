import math

import pytest
import torch
from torch.nn import functional as F

from embedkd.errors import LossError
from embedkd.losses import LOSSES, gradient
from tests.losses.naive import cosine, rows, softmax

STUDENT, TARGET, CLASSES = rows(5, 6, seed=1), rows(5, 6, seed=2), rows(4, 6, seed=3)
LABELS = torch.tensor([0, 3, 1, 1, 2])


def scale(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64).log()


def by_autograd(embedding: torch.Tensor, factor: float) -> torch.Tensor:
    """The gradient of InfoNCE with respect to the normalised embedding."""
    unit = F.normalize(embedding).requires_grad_()
    cost = F.cross_entropy(factor * unit @ F.normalize(CLASSES).T, LABELS, reduction="sum")
    return torch.autograd.grad(cost, unit)[0]


def test_the_default_scale_of_a_teacher_is_ten() -> None:
    assert LOSSES["gradient"].options == {"teacher_scale": 10.0}


@pytest.mark.parametrize(("teacher", "student"), [(10.0, 14.3), (100.0, 1.0)])
def test_the_closed_form_is_what_autograd_finds(teacher: float, student: float) -> None:
    expected = F.mse_loss(by_autograd(STUDENT, student), by_autograd(TARGET, teacher))

    value = gradient(STUDENT, TARGET, CLASSES, LABELS, scale(student), teacher_scale=teacher)

    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)


def test_agrees_with_a_naive_loop() -> None:
    unit = [[x / math.hypot(*row) for x in row] for row in CLASSES.tolist()]

    def pull(row: list[float], label: int, factor: float) -> list[float]:
        likely = softmax([factor * cosine(row, one) for one in unit])
        expected = [sum(p * one[at] for p, one in zip(likely, unit, strict=True)) for at in range(6)]
        return [factor * (mean - own) for mean, own in zip(expected, unit[label], strict=True)]

    total = 0.0
    for ours, theirs, label in zip(STUDENT.tolist(), TARGET.tolist(), LABELS.tolist(), strict=True):
        pairs = zip(pull(ours, label, 14.0), pull(theirs, label, 10.0), strict=True)
        total += sum((a - b) ** 2 for a, b in pairs) / 6 / 5

    assert gradient(STUDENT, TARGET, CLASSES, LABELS, scale(14)).item() == pytest.approx(total, rel=1e-12)


def test_a_perfect_match_costs_nothing_and_only_at_the_same_scale() -> None:
    assert gradient(3 * TARGET, TARGET, CLASSES, LABELS, scale(10)).item() == pytest.approx(0, abs=1e-20)
    assert gradient(3 * TARGET, TARGET, CLASSES, LABELS, scale(20)).item() > 0.1


def test_at_chance_the_student_is_pulled_from_the_mean_of_all_classes_to_its_own() -> None:
    unit = F.normalize(CLASSES)
    expected = F.mse_loss(10 * (unit.mean(0) - unit[LABELS]), by_autograd(TARGET, 10.0))

    value = gradient(torch.zeros_like(TARGET), TARGET, CLASSES, LABELS, scale(10))

    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_outside_the_classes_are_refused(label: int) -> None:
    labels = LABELS.clone()
    labels[2] = label

    with pytest.raises(LossError, match=r"losses.gradient: expected labels from 0 to 3, got -?\d to \d"):
        gradient(STUDENT, TARGET, CLASSES, labels, scale(10))
