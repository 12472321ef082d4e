import math

import pytest
import torch

from embedkd.losses import MAX_LOG_SCALE, kl, scaled_kl
from tests.losses.naive import divergence, rows, softmax

NOTHING = torch.zeros((), dtype=torch.float64)


def test_agrees_with_a_naive_loop() -> None:
    student, target = rows(2, 5, 7, seed=1)
    pairs = zip((target / 2).tolist(), (0.3 * student).tolist(), strict=True)
    expected = 4 * sum(divergence(softmax(theirs), softmax(ours)) for theirs, ours in pairs) / 5

    value = scaled_kl(student, target, torch.tensor(0.3, dtype=torch.float64).log(), temperature=2.0)

    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_a_factor_of_one_over_the_temperature_is_kl() -> None:
    student, target = rows(2, 5, 7, seed=2)

    value = scaled_kl(student, target, NOTHING - math.log(3), temperature=3.0)

    assert value.item() == pytest.approx(kl(student, target, temperature=3.0).item(), rel=1e-12)


def test_the_factor_finds_the_student_that_differs_by_one() -> None:
    target, log_scale = rows(20, 6, seed=3), NOTHING.clone()
    for _ in range(300):
        log_scale.requires_grad_()
        (slope,) = torch.autograd.grad(scaled_kl(target / 5, target, log_scale, temperature=1.0), log_scale)
        log_scale = (log_scale - slope).detach()

    assert math.exp(log_scale.item()) == pytest.approx(5, rel=1e-3)


def test_the_factor_ends_at_a_hundred_and_can_come_back_from_there() -> None:
    student, target = rows(2, 5, 7, seed=4)
    far, bound = NOTHING + 50, (NOTHING + MAX_LOG_SCALE).requires_grad_()

    assert torch.equal(scaled_kl(student, target, far), scaled_kl(student, target, bound))
    (slope,) = torch.autograd.grad(scaled_kl(student, target, bound), bound)
    assert slope.abs() > 0
