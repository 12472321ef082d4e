import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from embedkd.training.optim import Schedule, build_optimiser

LR, DECAY = 0.01, 0.1


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.positions = nn.Parameter(torch.zeros(1, 3, 4))
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(requires_grad=False)

    def no_weight_decay(self) -> set[str]:
        return {"class_token", "positions"}


def optimiser_of(*modules: nn.Module) -> torch.optim.Optimizer:
    return build_optimiser(modules, lr=LR, weight_decay=DECAY, betas=(0.8, 0.99))


def rates(steps: int, warmup: int, ratio: float = 0.05) -> list[float]:
    optimiser = optimiser_of(nn.Linear(2, 2))
    schedule = Schedule(optimiser, steps=steps, warmup_steps=warmup, final_lr_ratio=ratio)
    found = []
    for step in range(1, steps + 1):
        found.append(schedule.set_rate(step))
        assert {group["lr"] for group in optimiser.param_groups} == {found[-1]}
    return found


def test_only_matrices_are_decayed() -> None:
    toy, projection = Toy(), nn.Linear(4, 8)
    decayed: set[int] = set()
    spared: set[int] = set()
    for group in optimiser_of(toy, projection).param_groups:
        assert group["betas"] == (0.8, 0.99)
        (decayed if group["weight_decay"] else spared).update(id(p) for p in group["params"])
        assert group["weight_decay"] in {0.0, DECAY}
    assert decayed == {id(toy.linear.weight), id(projection.weight)}
    one_dimensional = (toy.linear.bias, toy.norm.weight, toy.norm.bias, projection.bias)
    assert spared == {id(p) for p in (toy.class_token, toy.positions, *one_dimensional)}


def test_a_module_without_parameters_adds_nothing() -> None:
    toy = Toy()
    assert len(optimiser_of(toy, nn.Identity()).param_groups) == len(optimiser_of(toy).param_groups)


def test_decay_shrinks_a_matrix_without_gradient_and_leaves_its_bias() -> None:
    linear = nn.Linear(3, 3)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    for p in linear.parameters():
        p.grad = torch.zeros_like(p)
    optimiser_of(linear).step()
    torch.testing.assert_close(linear.weight.detach(), weight * (1 - LR * DECAY))
    assert torch.equal(linear.bias.detach(), bias)


def test_first_peak_and_last_rate() -> None:
    found = rates(steps=100, warmup=10)
    assert found[0] == pytest.approx(LR / 10)
    assert found[9] == pytest.approx(LR)
    assert max(found) == pytest.approx(LR)
    assert found[-1] == pytest.approx(0.05 * LR)


def test_the_rate_rises_and_then_really_decays() -> None:
    found = rates(steps=100, warmup=10)
    assert all(before < after for before, after in pairwise(found[:10]))
    assert all(before > after for before, after in pairwise(found[9:]))


def test_the_decay_is_half_a_cosine() -> None:
    found = rates(steps=60, warmup=20, ratio=0.0)
    expected = [LR * 0.5 * (1 + math.cos(math.pi * t / 40)) for t in range(41)]
    assert found[19:] == pytest.approx(expected)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 5), (2, 9), (3, 0), (7, 100)])
def test_short_runs_warm_up_for_half_of_them_at_most_and_end_low(steps: int, warmup: int) -> None:
    found = rates(steps, warmup)
    assert found[-1] == pytest.approx(0.05 * LR)
    assert found.index(max(found)) <= steps // 2
    assert min(found) > 0


def test_the_rate_is_a_function_of_the_step_alone() -> None:
    optimiser = optimiser_of(nn.Linear(2, 2))
    schedule = Schedule(optimiser, steps=10, warmup_steps=2, final_lr_ratio=0.1)
    forwards = [schedule.set_rate(step) for step in range(1, 11)]
    assert [schedule.set_rate(step) for step in range(10, 0, -1)] == forwards[::-1]
