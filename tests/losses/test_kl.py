import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as entropy_of  # type: ignore[import-untyped]
from torch.nn import functional as F

from embedkd.errors import LossError
from embedkd.losses import LOSSES, kl
from tests.losses.naive import divergence, entropy, rows, softmax


def naive(student: torch.Tensor, target: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for ours, theirs in zip((student / temperature).tolist(), (target / temperature).tolist(), strict=True):
        total += divergence(softmax(theirs), softmax(ours))
    return temperature**2 * total / len(student)


def test_the_default_temperature_is_four() -> None:
    assert LOSSES["kl"].options == {"temperature": 4.0}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_agrees_with_a_naive_loop_with_torch_and_with_scipy(temperature: float) -> None:
    student, target = 3 * rows(2, 8, 6, seed=1)

    value = kl(student, target, temperature=temperature).item()

    assert value == pytest.approx(naive(student, target, temperature), rel=1e-10)
    ours, theirs = ((part / temperature).log_softmax(1) for part in (student, target))
    torchs = F.kl_div(ours, theirs, reduction="batchmean", log_target=True).item()
    assert value == pytest.approx(temperature**2 * torchs, rel=1e-12)
    relative = entropy_of(theirs.exp().numpy(), ours.exp().numpy(), axis=1).mean()
    assert value == pytest.approx(temperature**2 * relative, rel=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.floats(0.1, 20), st.floats(-50, 50))
def test_closed_forms(temperature: float, shift: float) -> None:
    target = rows(5, 7, seed=2)
    likely = [softmax(row) for row in (target / temperature).tolist()]
    chance = temperature**2 * (math.log(7) - sum(map(entropy, likely)) / 5)

    assert kl(target + shift, target, temperature=temperature).item() == pytest.approx(0, abs=1e-10)
    value = kl(torch.full_like(target, shift), target, temperature=temperature).item()
    assert value == pytest.approx(chance, rel=1e-6, abs=1e-10)


def test_the_gradient_keeps_its_size_while_the_temperature_grows() -> None:
    """For high temperatures it becomes the difference of centred logits over C, whatever the temperature."""
    student, target = rows(2, 4, 6, seed=3)
    student.requires_grad_()
    (found,) = torch.autograd.grad(kl(student, target, temperature=1e4, reduction="sum"), student)

    difference = student.detach() - target
    torch.testing.assert_close(found, (difference - difference.mean(1, keepdim=True)) / 6, rtol=1e-3, atol=1e-6)


def test_classes_at_minus_infinity_have_no_probability() -> None:
    """The teacher's probabilities are renormalised over the others; the student's are not."""
    student, target = rows(2, 3, 6, seed=4)
    top = target.clone()
    top[:, 2:] = -torch.inf
    kept = [softmax(row[:2]) + [0.0] * 4 for row in (top / 4).tolist()]
    ours = [softmax(row) for row in (student / 4).tolist()]

    student.requires_grad_()
    value = kl(student, top)
    (found,) = torch.autograd.grad(value, student)

    assert value.item() == pytest.approx(16 * sum(map(divergence, kept, ours)) / 3, rel=1e-12)
    torch.testing.assert_close(found, 4 * (torch.tensor(ours, dtype=torch.float64) - torch.tensor(kept)) / 3)


def test_classes_at_minus_infinity_do_not_overflow_in_half_precision() -> None:
    student, target = rows(2, 3, 6, seed=4).half()
    target[:, 2:] = -torch.inf

    assert kl(student, target, temperature=0.01).isfinite()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_cannot_divide_is_refused(temperature: float) -> None:
    with pytest.raises(LossError, match=r"losses.kl: expected a temperature above 0"):
        kl(*rows(2, 3, 4, seed=5), temperature=temperature)
