import math
from typing import Any

import pytest
import torch
from torch import nn

from embedkd.errors import TrainingError
from embedkd.join import Batch
from embedkd.students import Student, StudentOutput
from embedkd.training.lesson import Lesson, without_padding
from embedkd.training.objective import Objective
from embedkd.training.optim import Schedule, build_optimiser
from embedkd.training.state import Learner, StepValues
from embedkd.training.targets import TermTargets
from embedkd.training.terms import build_terms

CLASSES = 3


class Toy(Student):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, CLASSES)
        self.embedding_dim, self.num_classes, self.image_px = 4, CLASSES, 2

    def forward(self, pixels: torch.Tensor) -> StudentOutput:
        embedding = self.dropout(self.body(pixels.flatten(1)))
        return StudentOutput(embedding, self.head(embedding))


def learner(clip_grad_norm: float = 1.0, precision: Any = "float32") -> Learner:
    torch.manual_seed(0)
    student = Toy()
    targets = {"mse": TermTargets("pooled", 5)}
    terms = build_terms({"cross_entropy": 1.0, "mse": 1.0}, {})
    objective = Objective(terms, student_dim=4, num_classes=CLASSES, targets=targets, seed=0)
    optimiser = build_optimiser((student, objective), lr=0.01, weight_decay=0.1, betas=(0.9, 0.999))
    schedule = Schedule(optimiser, steps=10, warmup_steps=2, final_lr_ratio=0.1)
    lesson = Lesson(student, objective, device=torch.device("cpu"), precision=precision)
    return Learner(lesson, optimiser, schedule, clip_grad_norm=clip_grad_norm, seed=7)


def batch(size: int = 6) -> Batch:
    draw = torch.Generator().manual_seed(1)
    return Batch(
        keys=tuple(f"k{i}" for i in range(size)),
        pixels=torch.randn(size, 3, 2, 2, generator=draw),
        labels=torch.arange(size) % CLASSES,
        targets={"pooled": torch.randn(size, 5, generator=draw)},
        valid=torch.ones(size, dtype=torch.bool),
    )


def parameters(of: Learner) -> list[torch.Tensor]:
    return [p.detach().clone() for p in (*of.student.parameters(), *of.objective.parameters())]


def test_a_step_changes_student_and_projection_and_counts() -> None:
    made = learner()
    before = parameters(made)
    values = made.gradients(batch())
    assert made.position.step == 0
    assert all(map(torch.equal, before, parameters(made))), "gradients alone change nothing"
    made.update()
    assert made.position.step == 1
    assert not any(map(torch.equal, before, parameters(made)))
    assert values.loss == pytest.approx(values.terms["cross_entropy"] + values.terms["mse"])
    assert values.lr == pytest.approx(0.005), "the first of two warm-up steps"
    assert values.finite


def test_dropout_is_a_function_of_the_step() -> None:
    first, second = learner(), learner()
    torch.manual_seed(5)
    one = first.gradients(batch())
    torch.manual_seed(6)
    torch.rand(100)
    assert second.gradients(batch()) == one
    second.position.step = 1
    assert second.gradients(batch()).loss != one.loss


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_gradients_are_clipped_and_their_norm_is_that_before(clip: float) -> None:
    made = learner(clip)
    values = made.gradients(batch())
    gradients = [p.grad for p in (*made.student.parameters(), *made.objective.parameters()) if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients])))
    assert norm == pytest.approx(clip or values.grad_norm, rel=1e-3)
    assert values.grad_norm > 1e-2


def test_padding_teaches_nothing() -> None:
    whole = batch(6)
    padded = Batch(
        keys=(*whole.keys, "k0", "k0"),
        pixels=torch.cat([whole.pixels, torch.full((2, 3, 2, 2), torch.nan)]),
        labels=torch.cat([whole.labels, torch.tensor([-1, 99])]),
        targets={"pooled": torch.cat([whole.targets["pooled"], torch.full((2, 5), torch.nan)])},
        valid=torch.tensor([True] * 6 + [False] * 2),
    )
    assert learner().gradients(padded) == learner().gradients(whole)
    assert without_padding(whole) is whole


def test_a_label_that_is_no_class_is_found_before_the_forward_pass() -> None:
    bad = batch()
    bad.labels[4] = 3
    with pytest.raises(TrainingError, match="sample k4 has label 3"):
        learner().gradients(bad)


def test_bfloat16_is_close_and_keeps_float32_parameters() -> None:
    half, full = learner(precision="bfloat16"), learner()
    assert half.gradients(batch()).loss == pytest.approx(full.gradients(batch()).loss, rel=0.05)
    half.update()
    assert {p.dtype for p in half.student.parameters()} == {torch.float32}


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf), (1.0, math.nan)])
def test_values_that_must_not_change_parameters(loss: float, norm: float) -> None:
    assert not StepValues(loss, {}, norm, 0.1).finite


def parts(of: Batch, *sizes: int) -> list[Batch]:
    cuts = [slice(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes))]
    return [
        Batch(of.keys[at], of.pixels[at], of.labels[at], {"pooled": of.targets["pooled"][at]}, of.valid[at])
        for at in cuts
    ]


@pytest.mark.parametrize("sizes", [(6,), (3, 3), (4, 2), (2, 2, 2), (5, 1)])
def test_parts_of_a_step_add_up_to_the_whole_step(sizes: tuple[int, ...]) -> None:
    whole, divided = learner(), learner()
    for made in (whole, divided):
        made.student.eval()  # each part draws its own dropout
    expected, found = whole.gradients(batch()), divided.gradients(*parts(batch(), *sizes))
    assert found.terms == pytest.approx(expected.terms)
    assert (found.loss, found.grad_norm) == pytest.approx((expected.loss, expected.grad_norm))
    for made in (whole, divided):
        made.update()
    torch.testing.assert_close(parameters(divided), parameters(whole))


def test_parts_draw_their_own_dropout() -> None:
    same = parts(batch(), 3)[0]
    first, both = learner().gradients(same), learner().gradients(same, same)
    assert both.loss != first.loss


def test_a_part_of_padding_alone_counts_nothing() -> None:
    of, none = batch(), torch.zeros(6, dtype=torch.bool)
    padding = Batch(of.keys, of.pixels, of.labels, of.targets, none)
    assert learner().gradients(of, padding) == learner().gradients(of)
    assert without_padding(padding).keys == ("k0",)
    assert learner().keys([of, padding]) == list(of.keys)
