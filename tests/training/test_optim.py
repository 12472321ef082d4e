import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from embedkd.training.optim import OptimiserName, Schedule, ScheduleName, build_optimiser

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


def rates(steps: int, warmup: int, ratio: float = 0.05, **others: Any) -> list[float]:
    optimiser = optimiser_of(nn.Linear(2, 2))
    schedule = Schedule(optimiser, steps=steps, warmup_steps=warmup, final_lr_ratio=ratio, **others)
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


def stepped(name: OptimiserName, gradients: list[float], **options: Any) -> list[float]:
    """One weight of 1, step by step."""
    weight = nn.Parameter(torch.ones(1, 1))
    module = nn.Module()
    module.register_parameter("weight", weight)
    optimiser = build_optimiser([module], name=name, lr=0.1, weight_decay=0.0, **options)
    found = []
    for gradient in gradients:
        weight.grad = torch.full((1, 1), gradient)
        optimiser.step()
        found.append(weight.item())
    return found


def test_sgd_by_hand() -> None:
    assert stepped("sgd", [1.0, 1.0], momentum=0.0) == pytest.approx([0.9, 0.8])
    # The velocity is 1, then 0.5 + 1; Nesterov adds half of it to the gradient once more.
    assert stepped("sgd", [1.0, 1.0], momentum=0.5, nesterov=False) == pytest.approx([0.9, 0.75])
    assert stepped("sgd", [1.0, 1.0], momentum=0.5, nesterov=True) == pytest.approx([0.85, 0.675])


def test_a_step_of_lamb_is_as_long_as_the_rate_and_the_weight_say() -> None:
    # Without decay it is Adam; of a second gradient ten times the first nothing is clipped off before.
    moments = (0.9 * 0.1 + 0.1 * 10) / 0.19, (0.999 * 0.001 + 0.001 * 100) / 0.001999
    assert stepped("lamb", [1.0, 10.0]) == pytest.approx([0.9, 0.9 - 0.1 * moments[0] / math.sqrt(moments[1])])
    decayed = nn.Linear(4, 4, bias=False)
    optimiser = build_optimiser([decayed], name="lamb", lr=0.1, weight_decay=0.1)
    before = decayed.weight.detach().clone()
    decayed.weight.grad = torch.ones(4, 4)
    optimiser.step()
    moved = torch.linalg.vector_norm(decayed.weight.detach() - before)
    assert moved.item() == pytest.approx(0.1 * torch.linalg.vector_norm(before).item(), rel=1e-4)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_every_optimiser_comes_back_from_its_state(name: OptimiserName) -> None:
    def made() -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        linear = nn.Linear(3, 3)
        return linear, build_optimiser([linear], name=name, lr=0.1, weight_decay=0.1)

    def step(linear: nn.Linear, optimiser: torch.optim.Optimizer, number: int) -> None:
        for parameter in linear.parameters():
            parameter.grad = torch.full_like(parameter, float(number))
        optimiser.step()

    (whole, undisturbed), (first, begun) = made(), made()
    for number in range(4):
        step(whole, undisturbed, number)
    for number in range(2):
        step(first, begun, number)
    second, resumed = made()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(begun.state_dict())
    for number in range(2, 4):
        step(second, resumed, number)
    assert torch.equal(second.weight, whole.weight)


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


def test_a_linear_decay() -> None:
    found = rates(steps=50, warmup=10, ratio=0.1, name="linear")
    assert found[:10] == pytest.approx([LR * t / 10 for t in range(1, 11)])
    assert found[9:] == pytest.approx([LR * (1 - 0.9 * t / 40) for t in range(41)])


@pytest.mark.parametrize("warmup", [0, 3])
def test_a_rate_that_drops_after_the_last_of_so_many_steps(warmup: int) -> None:
    found = rates(steps=14 + warmup, warmup=warmup, name="step", decay_steps=5, decay_rate=0.5)
    assert found[warmup:] == pytest.approx([LR] * 5 + [LR / 2] * 5 + [LR / 4] * 4)
    assert found[:warmup] == pytest.approx([LR * t / 3 for t in range(1, warmup + 1)])


def test_a_rate_that_stays() -> None:
    assert rates(steps=9, warmup=2, name="constant") == pytest.approx([LR / 2, *[LR] * 8])


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 5), (2, 9), (3, 0), (7, 100)])
def test_short_runs_warm_up_for_half_of_them_at_most_and_end_low(steps: int, warmup: int) -> None:
    found = rates(steps, warmup)
    assert found[-1] == pytest.approx(0.05 * LR)
    assert found.index(max(found)) <= steps // 2
    assert min(found) > 0


@pytest.mark.parametrize("name", ["cosine", "linear", "step", "constant"])
def test_the_rate_is_a_function_of_the_step_alone(name: ScheduleName) -> None:
    optimiser = optimiser_of(nn.Linear(2, 2))
    schedule = Schedule(optimiser, steps=10, warmup_steps=2, name=name, decay_steps=3)
    forwards = [schedule.set_rate(step) for step in range(1, 11)]
    assert [schedule.set_rate(step) for step in range(10, 0, -1)] == forwards[::-1]
