import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from embedkd.errors import LossError
from embedkd.losses import LOSSES, similarity_binary_kl
from tests.losses.naive import cosine, divergence, rows

STUDENT, TARGET, CLASSES = rows(5, 6, seed=1), rows(5, 6, seed=2), rows(4, 6, seed=3)
SCALE, BIAS = torch.tensor(7.0, dtype=torch.float64).log(), torch.tensor(-3.0, dtype=torch.float64)


def coins(row: list[float], factor: float, bias: float) -> list[tuple[float, float]]:
    likely = [1 / (1 + math.exp(-factor * cosine(row, one) - bias)) for one in CLASSES.tolist()]
    return [(p, 1 - p) for p in likely]


def test_defaults_are_where_siglip_starts() -> None:
    assert LOSSES["similarity_binary_kl"].options == {"teacher_scale": 10.0, "teacher_bias": -10.0}


def test_agrees_with_a_naive_loop() -> None:
    expected = 0.0
    for ours, theirs in zip(STUDENT.tolist(), TARGET.tolist(), strict=True):
        expected += sum(map(divergence, coins(theirs, 5, -2), coins(ours, 7, -3))) / 5

    value = similarity_binary_kl(STUDENT, TARGET, CLASSES, SCALE, BIAS, teacher_scale=5.0, teacher_bias=-2.0)

    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_its_gradient_is_that_of_binary_cross_entropy() -> None:
    unit = [F.normalize(part) for part in (STUDENT, TARGET, CLASSES)]
    soft = (10 * unit[1] @ unit[2].T - 10).sigmoid()
    student = STUDENT.clone().requires_grad_()
    logits = 7 * F.normalize(student) @ unit[2].T - 3
    (expected,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(logits, soft, reduction="sum"), student)

    value = similarity_binary_kl(student, TARGET, CLASSES, SCALE, BIAS, reduction="sum")

    torch.testing.assert_close(torch.autograd.grad(value, student)[0], expected)


def test_a_perfect_match_costs_nothing_and_only_with_the_same_bias() -> None:
    alike = partial(similarity_binary_kl, 4 * TARGET, TARGET, CLASSES, SCALE, teacher_scale=7.0, teacher_bias=-3.0)

    assert alike(BIAS).item() == pytest.approx(0, abs=1e-14)
    assert alike(BIAS + 2).item() > 0.1


def test_a_student_that_says_the_same_of_all_pairs_pays_the_divergence_to_it() -> None:
    expected = 0.0
    for row in TARGET.tolist():
        expected += sum(divergence(coin, (0.5, 0.5)) for coin in coins(row, 10, -10)) / 5

    value = similarity_binary_kl(torch.zeros_like(TARGET), TARGET, CLASSES, SCALE, 0 * BIAS)

    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_certain_pairs_stay_finite_in_float32() -> None:
    one = torch.eye(3)
    value = similarity_binary_kl(-one, one, one, torch.tensor(4.6), torch.tensor(0.0), teacher_scale=100.0)

    assert value.isfinite()
    assert value > 100


def test_a_bias_that_is_none_is_refused() -> None:
    with pytest.raises(LossError, match="expected a finite teacher_bias, got nan; -10 is usual"):
        similarity_binary_kl(STUDENT, TARGET, CLASSES, SCALE, BIAS, teacher_bias=math.nan)
