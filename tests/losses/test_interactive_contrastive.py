import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkd.errors import LossError
from embedkd.losses import class_contrastive, interactive_contrastive
from tests.losses.naive import cosine, rows, softmax

LABELS = torch.tensor([0, 3, 1, 1, 2])


def scale(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64).log()


def test_agrees_with_a_naive_loop_and_with_class_contrastive_at_that_temperature() -> None:
    student, classes = rows(5, 6, seed=1), rows(4, 6, seed=2)
    expected = 0.0
    for row, label in zip(student.tolist(), LABELS.tolist(), strict=True):
        expected -= math.log(softmax([14 * cosine(row, one) for one in classes.tolist()])[label]) / 5

    value = interactive_contrastive(student, classes, LABELS, scale(14))

    assert value.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(value, class_contrastive(student, classes, LABELS, temperature=1 / 14))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 64), st.floats(0.1, 100))
def test_closed_forms(classes: int, factor: float) -> None:
    texts, labels = torch.eye(classes, dtype=torch.float64), torch.arange(classes)

    perfect = interactive_contrastive(3 * texts, texts, labels, scale(factor)).item()
    chance = interactive_contrastive(torch.ones_like(texts), texts, labels, scale(factor)).item()

    assert perfect == pytest.approx(math.log1p((classes - 1) * math.exp(-factor)), rel=1e-9, abs=1e-12)
    assert chance == pytest.approx(math.log(classes), rel=1e-9, abs=1e-12)


def test_the_factor_grows_while_the_student_is_right_and_falls_while_it_is_wrong() -> None:
    classes, log_scale = torch.eye(4, dtype=torch.float64), scale(10).requires_grad_()

    (right,) = torch.autograd.grad(interactive_contrastive(classes, classes, torch.arange(4), log_scale), log_scale)
    wrong_labels = torch.arange(4).roll(1)
    (wrong,) = torch.autograd.grad(interactive_contrastive(classes, classes, wrong_labels, log_scale), log_scale)

    assert right < 0 < wrong


def test_labels_outside_the_classes_are_refused() -> None:
    with pytest.raises(LossError, match=r"losses.interactive_contrastive: expected labels from 0 to 2, got 0 to 3"):
        interactive_contrastive(rows(5, 6, seed=1), rows(3, 6, seed=2), LABELS, scale(1))
