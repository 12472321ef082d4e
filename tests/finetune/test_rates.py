"""Who learns how fast, in closed form; who is frozen; which modules are in training mode."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from embedkd.errors import ConfigError, TeacherError
from embedkd.finetune.rates import check_parts, depths, layered_optimiser, set_modes
from embedkd.teachers import Backbone
from embedkd.teachers.runner import TorchTeacher
from embedkd.training.optim import Schedule

LR, DECAY, WEIGHT_DECAY, BLOCKS = 0.02, 0.6, 0.1, 3


@pytest.fixture
def backbone(load_toy: Callable[..., TorchTeacher]) -> Backbone:
    found = load_toy().backbone
    assert found is not None
    return found


def expected_depth(name: str) -> int:
    """Classifier 0, the norm behind the blocks 1, the last block 2, ..., the stem 2 + blocks."""
    if name.startswith("blocks."):
        return 1 + BLOCKS - int(name.split(".")[1])
    return {"norm": 1, "stem": 2 + BLOCKS}[name.split(".")[0]]


def optimiser_of(backbone: Backbone, last_blocks: int | None) -> tuple[torch.optim.Optimizer, nn.Linear]:
    classifier = nn.Linear(6, 3)
    by_depth = depths(backbone, last_blocks)
    optimiser = layered_optimiser(backbone, classifier, by_depth, lr=LR, decay=DECAY, weight_decay=WEIGHT_DECAY)
    return optimiser, classifier


@pytest.mark.parametrize("step", [1, 3, 10, 20])
def test_every_rate_is_the_classifiers_times_decay_to_the_depth_at_any_step(backbone: Backbone, step: int) -> None:
    optimiser, classifier = optimiser_of(backbone, None)
    schedule = Schedule(optimiser, steps=20, warmup_steps=5, final_lr_ratio=0.05)
    top = schedule.set_rate(step)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in backbone.module.named_parameters():
        assert rates.pop(id(parameter)) == pytest.approx(top * DECAY ** expected_depth(name)), name
    assert rates == {id(p): top for p in classifier.parameters()}
    if step == 20:
        assert top == pytest.approx(0.05 * LR)


def test_only_matrices_are_decayed(backbone: Backbone) -> None:
    optimiser, classifier = optimiser_of(backbone, None)
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    for parameter in (*backbone.module.parameters(), *classifier.parameters()):
        assert decay[id(parameter)] == (WEIGHT_DECAY if parameter.ndim > 1 else 0.0)


@pytest.mark.parametrize(
    ("last_blocks", "learning"), [(0, ("norm",)), (1, ("norm", "blocks.2")), (3, ("norm", "blocks.")), (None, ("",))]
)
def test_the_last_blocks_and_what_follows_them_learn(
    backbone: Backbone, last_blocks: int | None, learning: tuple[str, ...]
) -> None:
    optimiser, classifier = optimiser_of(backbone, last_blocks)
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in backbone.module.named_parameters():
        assert parameter.requires_grad == name.startswith(learning), name
        assert (id(parameter) in held) == parameter.requires_grad
    assert {id(p) for p in classifier.parameters()} <= held


def test_nothing_of_the_backbone_learns_with_no_depth(backbone: Backbone) -> None:
    classifier = nn.Linear(6, 3)
    optimiser = layered_optimiser(backbone, classifier, {}, lr=LR, decay=DECAY, weight_decay=WEIGHT_DECAY)
    assert not any(p.requires_grad for p in backbone.module.parameters())
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 2


def test_more_blocks_than_there_are(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="expected up to 3, the blocks of this teacher, got 4"):
        depths(backbone, 4)


def test_parts_hold_a_parameter_once_and_none_of_another_module(backbone: Backbone) -> None:
    check_parts(backbone)
    stranger = (nn.Parameter(torch.zeros(1)),)
    for parts in ((*backbone.parts, backbone.parts[0]), (*backbone.parts, stranger)):
        with pytest.raises(TeacherError, match="each parameter in at most one of the 6 parts"):
            check_parts(replace(backbone, parts=parts))


def test_what_is_in_no_part_is_never_trained_and_does_not_count(backbone: Backbone) -> None:
    """An old classifier that a library keeps in its model."""
    old = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 1000))
    backbone.module.add_module("old", old)
    check_parts(backbone)
    optimiser_of(backbone, None)
    set_modes(backbone, statistics=True)
    assert not any(p.requires_grad for p in old.parameters())
    assert training(backbone.module) >= {"", "stem", "blocks", "blocks.0.dropout"}


def training(module: nn.Module) -> set[str]:
    return {name for name, child in module.named_modules() if child.training}


def test_what_is_frozen_is_in_evaluation_mode_with_its_dropout(backbone: Backbone) -> None:
    optimiser_of(backbone, 1)
    set_modes(backbone, statistics=False)
    last = {"blocks.2", "blocks.2.linear", "blocks.2.dropout", "norm"}  # and not blocks.2.norm, a batch norm
    assert training(backbone.module) == last
    set_modes(backbone, statistics=True)
    assert training(backbone.module) == last | {"blocks.2.norm"}


def test_everything_is_in_training_mode_where_everything_learns(backbone: Backbone) -> None:
    optimiser_of(backbone, None)
    set_modes(backbone, statistics=True)
    assert training(backbone.module) == {name for name, _ in backbone.module.named_modules()}
