import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkd.errors import LossError
from embedkd.losses import class_contrastive, sample_contrastive


def naive(student: torch.Tensor, target: torch.Tensor, labels: list[int] | None, temperature: float) -> float:
    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    total = 0.0
    for i, row in enumerate(student.tolist()):
        logits = {}
        for j, other in enumerate(target.tolist()):
            if i == j or labels is None or labels[i] != labels[j]:
                logits[j] = cosine(row, other) / temperature
        total += math.log(sum(math.exp(logit) for logit in logits.values())) - logits[i]
    return total / len(student)


def draw_rows(samples: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    student, target = torch.randn(2, samples, 6, generator=source, dtype=torch.float64)
    return student, target


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("labels", [None, [0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 1, 1, 1, 2, 3, 0]])
def test_agrees_with_a_naive_loop(labels: list[int] | None, temperature: float) -> None:
    student, target = draw_rows()
    given_labels = None if labels is None else torch.tensor(labels)

    value = sample_contrastive(student, target, given_labels, temperature=temperature)

    assert value.item() == pytest.approx(naive(student, target, labels, temperature), rel=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 64), st.floats(0.05, 10))
def test_closed_forms(samples: int, temperature: float) -> None:
    target = torch.eye(samples, dtype=torch.float64)

    perfect = sample_contrastive(target, target, temperature=temperature)
    chance = sample_contrastive(torch.ones_like(target), target, temperature=temperature)

    assert perfect.item() == pytest.approx(math.log1p((samples - 1) * math.exp(-1 / temperature)), rel=1e-9, abs=1e-12)
    assert chance.item() == pytest.approx(math.log(samples), rel=1e-9, abs=1e-12)


def test_closed_forms_count_the_candidates_that_are_kept() -> None:
    target, labels = torch.eye(12, dtype=torch.float64), torch.arange(12) % 3

    perfect = sample_contrastive(target, target, labels)
    chance = sample_contrastive(torch.ones_like(target), target, labels)

    assert perfect.item() == pytest.approx(math.log1p(8 * math.exp(-10)), rel=1e-9)
    assert chance.item() == pytest.approx(math.log(9), rel=1e-12)


def test_it_is_the_loss_of_classes_where_each_sample_is_its_own_class() -> None:
    student, target = draw_rows()

    torch.testing.assert_close(sample_contrastive(student, target), class_contrastive(student, target, torch.arange(8)))


def test_both_may_be_cut_from_the_same_larger_batch_in_any_order() -> None:
    student, target = draw_rows()
    order = torch.tensor([5, 2, 0, 7, 6, 1, 4, 3])

    torch.testing.assert_close(sample_contrastive(student[order], target[order]), sample_contrastive(student, target))
    assert not torch.isclose(sample_contrastive(student[order], target), sample_contrastive(student, target))


def test_a_sample_stays_its_own_candidate_among_its_class() -> None:
    student, target = (rows.requires_grad_() for rows in draw_rows())

    each = sample_contrastive(student, target, torch.zeros(8, dtype=torch.int64), reduction="none")
    torch.autograd.backward(each.sum())

    assert torch.equal(each, torch.zeros(8, dtype=torch.float64))
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_a_masked_pair_has_no_influence() -> None:
    student, target = draw_rows()
    labels = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6])
    other = target.clone()
    other[1] = -target[1]

    before = sample_contrastive(student, target, labels, reduction="none")
    after = sample_contrastive(student, other, labels, reduction="none")

    assert before[0] == after[0]
    assert (before[1:] != after[1:]).all()


def test_unknown_labels_mask_nothing() -> None:
    student, target = draw_rows()

    value = sample_contrastive(student, target, torch.full((8,), -1))

    assert torch.equal(value, sample_contrastive(student, target))


def test_labels_can_be_passed_without_masking() -> None:
    student, target = draw_rows()

    value = sample_contrastive(student, target, torch.zeros(8, dtype=torch.int64), mask_same_class=False)

    assert torch.equal(value, sample_contrastive(student, target))


def test_a_batch_of_one_has_no_choice() -> None:
    student, target = (rows.requires_grad_() for rows in draw_rows(1))

    value = sample_contrastive(student, target)
    torch.autograd.backward(value)

    assert value.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_a_temperature_that_cannot_divide_is_refused() -> None:
    with pytest.raises(LossError, match=r"losses.sample_contrastive: expected a temperature above 0, got 0"):
        sample_contrastive(*draw_rows(), temperature=0)


def test_the_own_target_may_lie_anywhere_among_the_candidates() -> None:
    source = torch.Generator().manual_seed(6)
    student, target = torch.randn(2, 6, 5, generator=source, dtype=torch.float64)
    order = torch.tensor([4, 2, 0, 5, 1, 3])

    shuffled = sample_contrastive(student, target[order], own_B=order.argsort())

    torch.testing.assert_close(shuffled, sample_contrastive(student, target))


def test_more_candidates_than_samples_need_to_be_told_apart() -> None:
    with pytest.raises(
        LossError, match=r"expected student_BD \[B, D\] with B = 4 as target_ND, got \[3, 2\]; .* own_B"
    ):
        sample_contrastive(torch.ones(3, 2), torch.ones(4, 2))
