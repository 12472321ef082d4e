import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from embedkd.errors import LossError, TrainingError
from embedkd.losses import (
    LOSSES,
    MAX_LOG_SCALE,
    class_contrastive,
    cosine,
    cross_entropy,
    fusion_contrastive,
    kl,
    mse,
    sample_contrastive,
    similarity_kl,
)
from embedkd.students import StudentOutput
from embedkd.training.objective import Objective, TermLoss
from embedkd.training.optim import build_optimiser
from embedkd.training.targets import TermTargets
from embedkd.training.terms import build_terms

B, C, WIDTH = 6, 3, 4
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
SOME = {"cross_entropy": 0.5, "class_contrastive": 0.25, "sample_contrastive": 2.0, "mse": 3.0, "cosine": 0.125}
EVERY = dict.fromkeys(LOSSES, 1.0)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ANSWER = StudentOutput(draw(B, WIDTH, seed=1), draw(B, C, seed=2))


def facing(width: int, weights: dict[str, float]) -> dict[str, TermTargets]:
    """What each loss compares with: ``pooled`` of that width, ``logits`` of the classes."""
    made = {}
    for name in weights:
        reads, output = set(LOSSES[name].inputs), LOSSES[name].default_output or "pooled"
        if LOSSES[name].from_store:
            made[name] = TermTargets(
                output if LOSSES[name].per_sample else None,
                C if output == "logits" else width,
                classes=draw(C, width, seed=width) if "classes" in reads else None,
            )
    return made


def rows_of(width: int) -> dict[str, torch.Tensor]:
    return {"pooled": draw(B, width, seed=5), "logits": draw(B, C, seed=6)}


def objective(
    weights: dict[str, float],
    targets: dict[str, TermTargets] | None = None,
    options: dict[str, Any] | None = None,
    **others: Any,
) -> Objective:
    return Objective(
        build_terms(weights, options or {}),
        targets=targets or {},
        **{"student_dim": WIDTH, "num_classes": C, "class_names": ("a", "b", "c"), "seed": 0, **others},
    )


def part_of(made: Objective, name: str) -> TermLoss:
    part = made.losses[name]
    assert isinstance(part, TermLoss)
    return part


def projected(made: Objective, name: str, rows: torch.Tensor) -> torch.Tensor:
    project = part_of(made, name).projection
    assert project is not None
    found = project(rows)
    assert isinstance(found, torch.Tensor)
    return found.detach()


def weight_of(made: Objective, name: str, part: str = "projection") -> torch.Tensor:
    weight = getattr(made.losses[name], part).weight
    assert isinstance(weight, nn.Parameter)
    return weight


def test_the_total_is_the_weighted_sum_of_what_each_loss_says() -> None:
    targets, rows = facing(WIDTH, SOME), rows_of(WIDTH)["pooled"]
    classes = targets["class_contrastive"].classes
    assert classes is not None
    total, values = objective(SOME, targets)(ANSWER, LABELS, {"pooled": rows})
    student, logits, _ = ANSWER
    expected = {
        "cross_entropy": cross_entropy(logits, LABELS),
        "class_contrastive": class_contrastive(student, classes, LABELS),
        "sample_contrastive": sample_contrastive(student, rows, LABELS),
        "mse": mse(student, rows),
        "cosine": cosine(student, rows),
    }
    assert list(values) == list(SOME)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(total, sum((SOME[n] * expected[n] for n in SOME), torch.zeros(())))


def test_equal_widths_have_nothing_to_learn() -> None:
    assert list(objective(SOME, facing(WIDTH, SOME)).parameters()) == []


def test_the_side_that_the_loss_names_is_projected() -> None:
    made = objective(EVERY, facing(7, EVERY))
    for name, entry in LOSSES.items():
        sizes = {"student": "Projection(4, 7)", "target": "Projection(7, 4)", None: "None"}[entry.projection]
        assert repr(part_of(made, name).projection) == sizes, name
    rows = rows_of(7)
    _, values = made(ANSWER, LABELS, rows)
    student = ANSWER.embedding
    torch.testing.assert_close(values["mse"], mse(projected(made, "mse", student), rows["pooled"]))
    targets = projected(made, "sample_contrastive", rows["pooled"])
    torch.testing.assert_close(values["sample_contrastive"], sample_contrastive(student, targets, LABELS))


def test_everything_learns() -> None:
    made = objective(EVERY, facing(7, EVERY))
    student = StudentOutput(ANSWER.embedding.clone().requires_grad_(), ANSWER.logits.clone().requires_grad_())
    total, _ = made(student, LABELS, rows_of(7))
    total.backward()
    gradients = {name: parameter.grad for name, parameter in made.named_parameters()}
    assert {name.split(".")[-1] for name in gradients} == {"weight", "bias", "log_scale"}
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.abs().sum() > 0, name


def test_learned_parts_are_a_function_of_seed_and_loss_alone() -> None:
    first = objective(EVERY, facing(7, EVERY))
    torch.rand(3)
    again = objective({"mse": 1.0}, facing(7, {"mse": 1.0}))
    assert torch.equal(weight_of(first, "mse"), weight_of(again, "mse"))
    other = objective(EVERY, facing(7, EVERY), seed=1)
    for name, part in (("mse", "projection"), ("cosine", "projection"), ("fusion_contrastive", "fusion")):
        assert not torch.equal(weight_of(first, name, part), weight_of(other, name, part))
    assert not torch.equal(weight_of(first, "mse"), weight_of(first, "cosine"))


def test_a_loss_of_weight_zero_is_not_computed() -> None:
    made = objective({"cross_entropy": 1.0, "mse": 0.0, "class_contrastive": 0})
    total, values = made(ANSWER, LABELS, {})
    assert list(values) == ["cross_entropy"]
    torch.testing.assert_close(total, cross_entropy(ANSWER.logits, LABELS))


def test_checkpoints_hold_what_was_learned_and_nothing_of_the_store() -> None:
    names = {"fusion_contrastive": 1.0}
    targets = {"fusion_contrastive": replace(facing(7, names)["fusion_contrastive"], centre=draw(7))}
    made = objective(names, targets)
    assert set(made.state_dict()) == {
        f"losses.fusion_contrastive.{part}"
        for part in ("log_scale", "projection.weight", "projection.bias", "fusion.weight", "fusion.bias")
    }


def test_learned_numbers_are_not_decayed() -> None:
    made = objective(EVERY, facing(7, EVERY))
    optimiser = build_optimiser((made,), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.999))
    decayed = {id(p) for group in optimiser.param_groups if group["weight_decay"] for p in group["params"]}
    assert {name.split(".")[-1] for name, p in made.named_parameters() if id(p) in decayed} == {"weight"}


def test_a_scale_never_exceeds_a_hundred_and_comes_back_from_there() -> None:
    made = objective({"interactive_contrastive": 1.0}, facing(WIDTH, {"interactive_contrastive": 1.0}))
    scale = part_of(made, "interactive_contrastive").log_scale
    with torch.no_grad():
        scale.fill_(9.0)
    total, _ = made(ANSWER, LABELS, {})
    total.backward()
    assert scale.item() == pytest.approx(MAX_LOG_SCALE)
    assert scale.grad is not None
    assert scale.grad > 0  # the student is wrong: a smaller one costs less


def test_options_reach_the_loss() -> None:
    targets = facing(WIDTH, {"class_contrastive": 1.0})
    made = objective({"class_contrastive": 1.0}, targets, {"class_contrastive": {"temperature": 0.5}})
    _, values = made(ANSWER, LABELS, {})
    classes = targets["class_contrastive"].classes
    assert classes is not None
    torch.testing.assert_close(
        values["class_contrastive"], class_contrastive(ANSWER.embedding, classes, LABELS, temperature=0.5)
    )


def test_what_the_teacher_states_reaches_the_loss() -> None:
    classes, rows = draw(C, WIDTH, seed=3), rows_of(WIDTH)["pooled"]
    targets = {"similarity_kl": TermTargets("pooled", WIDTH, classes, options={"teacher_scale": 33.0})}
    made = objective({"similarity_kl": 1.0}, targets)
    _, values = made(ANSWER, LABELS, {"pooled": rows})
    start = torch.tensor(1 / 0.07).log()
    expected = similarity_kl(ANSWER.embedding, rows, classes, start, teacher_scale=33.0)
    torch.testing.assert_close(values["similarity_kl"], expected)


def test_the_centre_is_taken_off_the_rows() -> None:
    centre, rows = draw(WIDTH, seed=9), rows_of(WIDTH)["pooled"]
    made = objective({"cosine": 1.0}, {"cosine": TermTargets("pooled", WIDTH, centre=centre)})
    _, values = made(ANSWER, LABELS, {"pooled": rows})
    torch.testing.assert_close(values["cosine"], cosine(ANSWER.embedding, rows - centre))


def test_fusion_takes_the_student_first() -> None:
    targets, rows = facing(7, {"fusion_contrastive": 1.0}), rows_of(7)["pooled"]
    made = objective({"fusion_contrastive": 1.0}, targets)
    part, classes = part_of(made, "fusion_contrastive"), targets["fusion_contrastive"].classes
    assert part.fusion is not None
    assert part.fusion.bias is not None
    assert classes is not None
    student = projected(made, "fusion_contrastive", ANSWER.embedding)
    layer = weight_of(made, "fusion_contrastive", "fusion"), part.fusion.bias
    expected = fusion_contrastive(student, rows, classes, LABELS, part.log_scale, *layer)
    _, values = made(ANSWER, LABELS, {"pooled": rows})
    torch.testing.assert_close(values["fusion_contrastive"], expected.detach())


def test_each_loss_may_compare_with_an_output_of_its_own() -> None:
    targets = {"mse": TermTargets("logits", 9), "cosine": TermTargets("pooled", WIDTH)}
    made = objective({"mse": 1.0, "cosine": 1.0}, targets)
    rows = {"pooled": draw(B, WIDTH, seed=3), "logits": draw(B, 9, seed=4)}
    _, values = made(ANSWER, LABELS, rows)
    torch.testing.assert_close(values["cosine"], cosine(ANSWER.embedding, rows["pooled"]))
    expected = mse(projected(made, "mse", ANSWER.embedding), rows["logits"])
    torch.testing.assert_close(values["mse"], expected)


def test_kl_compares_logits_with_logits() -> None:
    rows = rows_of(WIDTH)
    made = objective({"kl": 1.0}, {"kl": TermTargets("logits", C)}, {"kl": {"temperature": 2}})
    _, values = made(ANSWER, LABELS, rows)
    torch.testing.assert_close(values["kl"], kl(ANSWER.logits, rows["logits"], temperature=2.0))


def test_an_inner_layer_of_the_student_takes_the_place_of_its_embedding() -> None:
    tap = draw(B, 5, seed=8)
    made = objective(
        {"mse": 1.0, "cosine": 1.0},
        facing(WIDTH, {"mse": 1.0, "cosine": 1.0}),
        {"mse": {"tap": "cls@1"}},
        tap_dims={"cls@1": 5},
    )
    assert repr(part_of(made, "mse").projection) == "Projection(5, 4)"
    rows = rows_of(WIDTH)
    _, values = made(ANSWER._replace(taps={"cls@1": tap}), LABELS, rows)
    torch.testing.assert_close(values["mse"], mse(projected(made, "mse", tap), rows["pooled"]))
    torch.testing.assert_close(values["cosine"], cosine(ANSWER.embedding, rows["pooled"]))
    with pytest.raises(TrainingError, match=r"loss_options.mse.tap: .* gives out, got cls@7; it gives out cls@1"):
        objective({"mse": 1.0}, facing(4, {"mse": 1.0}), {"mse": {"tap": "cls@7"}}, tap_dims={"cls@1": 5})


def test_half_precision_answers_and_rows_are_compared_in_float32() -> None:
    answer = StudentOutput(ANSWER.embedding.bfloat16(), ANSWER.logits.bfloat16())
    rows = {name: tensor.half() for name, tensor in rows_of(7).items()}
    total, values = objective(EVERY, facing(7, EVERY))(answer, LABELS, rows)
    assert {value.dtype for value in (total, *values.values())} == {torch.float32}
    assert math.isfinite(float(total.detach()))


def test_a_loss_that_reads_a_teacher_needs_a_store() -> None:
    with pytest.raises(TrainingError, match=r"losses.mse compares with a teacher; name its store with --targets"):
        objective({"cross_entropy": 1.0, "mse": 1.0})


def test_classes_of_other_data_are_refused() -> None:
    targets = {"class_contrastive": TermTargets(None, 5, draw(C + 1, 5))}
    with pytest.raises(
        TrainingError, match=r"losses.class_contrastive: the class set is of 4 classes, the data has 3; .* average"
    ):
        objective({"class_contrastive": 1.0}, targets)


def test_logits_of_other_classes_are_refused() -> None:
    with pytest.raises(TrainingError) as caught:
        objective({"kl": 1.0}, {"kl": TermTargets("logits", 1000)})
    assert str(caught.value) == (
        "losses.kl: the teacher's logits are of 1000 classes, the data has 3\n"
        "fit a head on its rows with embedkd head; it is found in the store by itself"
    )


def test_a_class_without_mean_is_named() -> None:
    means = draw(C, 5)
    means[1] = torch.nan
    with pytest.raises(LossError, match=r"got none for 1 \(b\)"):
        objective({"class_contrastive": 1.0}, {"class_contrastive": TermTargets(None, 5, means)})


@pytest.mark.parametrize(("label", "what"), [(-1, "has no label"), (3, "has label 3"), (99, "has label 99")])
def test_a_label_that_is_no_class_is_named(label: int, what: str) -> None:
    labels = torch.tensor([0, label, 2])
    with pytest.raises(TrainingError, match=rf"sample y {what}; expected one of 3 classes"):
        objective({"cross_entropy": 1.0}).check_labels(("x", "y", "z"), labels)
    weights = {"mse": 1.0, "sample_contrastive": 1.0, "kl": 1.0}
    objective(weights, facing(WIDTH, weights)).check_labels(("x", "y", "z"), labels)


@pytest.mark.parametrize("name", [name for name in LOSSES if "labels" in LOSSES[name].needs])
def test_a_sample_without_a_label_counts_nothing_where_labels_are_needed(name: str) -> None:
    known, answer = torch.tensor([0, 2, 3]), StudentOutput(ANSWER.embedding.clone(), ANSWER.logits.clone())
    answer.embedding.requires_grad_()
    answer.logits.requires_grad_()
    labels, targets = torch.full((B,), -1), facing(WIDTH, {name: 1.0})
    labels[known] = LABELS[known]
    total, _ = objective({name: 1.0}, targets, unlabelled=True)(answer, labels, rows_of(WIDTH))
    some = StudentOutput(ANSWER.embedding[known], ANSWER.logits[known])
    rows = {output: values[known] for output, values in rows_of(WIDTH).items()}
    expected, _ = objective({name: 1.0}, targets)(some, LABELS[known], rows)
    torch.testing.assert_close(total, expected * len(known) / B)
    total.backward()
    for part in (answer.embedding, answer.logits):
        if part.grad is not None:
            assert not part.grad[labels < 0].any()
            assert part.grad[known].any()


def test_a_batch_without_labels_costs_nothing_and_can_be_learned_from() -> None:
    made = objective({"cross_entropy": 1.0}, unlabelled=True)
    logits = ANSWER.logits.clone().requires_grad_()
    total, _ = made(StudentOutput(ANSWER.embedding, logits), torch.full((B,), -1), {})
    total.backward()
    assert total.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_labels_of_no_class_are_refused_beside_missing_ones() -> None:
    made = objective({"cross_entropy": 1.0}, unlabelled=True)
    made.check_labels(["a", "b"], torch.tensor([-1, C - 1]))
    for wrong in (-2, C):
        with pytest.raises(TrainingError, match=r"sample b has .*label"):
            made.check_labels(["a", "b"], torch.tensor([-1, wrong]))
