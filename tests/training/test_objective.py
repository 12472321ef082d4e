import math
from typing import Any

import pytest
import torch

from embedkd.errors import ConfigError, LossError, TrainingError, UnknownNameError
from embedkd.losses import class_contrastive, cosine, cross_entropy, mse, sample_contrastive
from embedkd.students import StudentOutput
from embedkd.training.objective import Objective, TeacherFacts, build_terms, check_batch_size

B, C, WIDTH = 6, 3, 4
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
EVERY = {"cross_entropy": 0.5, "class_contrastive": 0.25, "sample_contrastive": 2.0, "mse": 3.0, "cosine": 0.125}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ANSWER = StudentOutput(draw(B, WIDTH, seed=1), draw(B, C, seed=2))


def teacher(width: int, **others: int) -> TeacherFacts:
    dims = {"pooled": width, **others}
    return TeacherFacts("pooled", dims, {name: draw(C, dim, seed=dim) for name, dim in dims.items()})


def objective(
    weights: dict[str, float], facts: TeacherFacts | None, options: dict[str, Any] | None = None, seed: int = 0
) -> Objective:
    terms = build_terms(weights, options or {})
    return Objective(terms, student_dim=WIDTH, num_classes=C, teacher=facts, class_names=("a", "b", "c"), seed=seed)


def test_the_total_is_the_weighted_sum_of_what_each_loss_says() -> None:
    facts, rows = teacher(WIDTH), draw(B, WIDTH, seed=5)
    total, values = objective(EVERY, facts)(ANSWER, LABELS, {"pooled": rows})
    student, logits = ANSWER
    expected = {
        "cross_entropy": cross_entropy(logits, LABELS),
        "class_contrastive": class_contrastive(student, facts.class_means["pooled"], LABELS),
        "sample_contrastive": sample_contrastive(student, rows, LABELS),
        "mse": mse(student, rows),
        "cosine": cosine(student, rows),
    }
    assert list(values) == list(EVERY)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(total, sum((EVERY[n] * expected[n] for n in EVERY), torch.zeros(())))


def test_equal_widths_have_nothing_to_learn() -> None:
    assert list(objective(EVERY, teacher(WIDTH)).parameters()) == []


def test_the_side_that_the_loss_names_is_projected() -> None:
    made = objective(EVERY, teacher(7))
    sizes = {name: repr(part) for name, part in made.projections.items()}
    assert sizes == {
        "class_contrastive": "Projection(7, 4)",
        "sample_contrastive": "Projection(7, 4)",
        "mse": "Projection(4, 7)",
        "cosine": "Projection(4, 7)",
    }
    rows = draw(B, 7, seed=5)
    _, values = made(ANSWER, LABELS, {"pooled": rows})
    student = ANSWER.embedding
    torch.testing.assert_close(values["mse"], mse(made.projections["mse"](student), rows).detach())
    projected = made.projections["sample_contrastive"](rows)
    torch.testing.assert_close(values["sample_contrastive"], sample_contrastive(student, projected, LABELS).detach())


def test_projections_learn() -> None:
    made = objective(EVERY, teacher(7))
    total, _ = made(ANSWER, LABELS, {"pooled": draw(B, 7)})
    total.backward()
    gradients = [p.grad for p in made.parameters()]
    assert len(gradients) == 8
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_projections_are_a_function_of_seed_and_loss_alone() -> None:
    first = objective(EVERY, teacher(7))
    torch.rand(3)
    again = objective({"mse": 1.0}, teacher(7))
    assert torch.equal(first.projections["mse"].weight, again.projections["mse"].weight)  # type: ignore[arg-type]
    other = objective(EVERY, teacher(7), seed=1)
    for name in ("mse", "cosine"):
        assert not torch.equal(first.projections[name].weight, other.projections[name].weight)  # type: ignore[arg-type]
    assert not torch.equal(first.projections["mse"].weight, first.projections["cosine"].weight)  # type: ignore[arg-type]


def test_a_loss_of_weight_zero_is_not_computed() -> None:
    made = objective({"cross_entropy": 1.0, "mse": 0.0, "class_contrastive": 0}, None)
    total, values = made(ANSWER, LABELS, {})
    assert list(values) == ["cross_entropy"]
    torch.testing.assert_close(total, cross_entropy(ANSWER.logits, LABELS))


def test_checkpoints_hold_projections_and_no_class_means() -> None:
    made = objective({"class_contrastive": 1.0}, teacher(7))
    assert set(made.state_dict()) == {"projections.class_contrastive.weight", "projections.class_contrastive.bias"}


def test_options_reach_the_loss() -> None:
    facts = teacher(WIDTH)
    made = objective({"class_contrastive": 1.0}, facts, {"class_contrastive": {"temperature": 0.5}})
    _, values = made(ANSWER, LABELS, {})
    expected = class_contrastive(ANSWER.embedding, facts.class_means["pooled"], LABELS, temperature=0.5)
    torch.testing.assert_close(values["class_contrastive"], expected)


def test_each_loss_may_compare_with_an_output_of_its_own() -> None:
    options = {"mse": {"output": "logits"}}
    made = objective({"mse": 1.0, "cosine": 1.0}, teacher(WIDTH, logits=9), options)
    rows = {"pooled": draw(B, WIDTH, seed=3), "logits": draw(B, 9, seed=4)}
    _, values = made(ANSWER, LABELS, rows)
    torch.testing.assert_close(values["cosine"], cosine(ANSWER.embedding, rows["pooled"]))
    expected = mse(made.projections["mse"](ANSWER.embedding), rows["logits"]).detach()
    torch.testing.assert_close(values["mse"], expected)


def test_half_precision_answers_are_compared_in_float32() -> None:
    answer = StudentOutput(ANSWER.embedding.bfloat16(), ANSWER.logits.bfloat16())
    total, _ = objective(EVERY, teacher(7))(answer, LABELS, {"pooled": draw(B, 7)})
    assert total.dtype == torch.float32
    assert math.isfinite(float(total.detach()))


def test_a_loss_that_reads_a_teacher_needs_a_store() -> None:
    with pytest.raises(TrainingError, match=r"losses.mse compares with a teacher; name its store with --targets"):
        objective({"cross_entropy": 1.0, "mse": 1.0}, None)


def test_class_means_of_other_classes_are_refused() -> None:
    facts = TeacherFacts("pooled", {"pooled": 5}, {"pooled": draw(C + 1, 5)})
    with pytest.raises(TrainingError, match="the class means of pooled are of 4 classes, the data has 3"):
        objective({"class_contrastive": 1.0}, facts)


def test_a_class_without_mean_is_named() -> None:
    means = draw(C, 5)
    means[1] = torch.nan
    with pytest.raises(LossError, match=r"got none for 1 \(b\)"):
        objective({"class_contrastive": 1.0}, TeacherFacts("pooled", {"pooled": 5}, {"pooled": means}))


def test_names_and_options_are_looked_up() -> None:
    with pytest.raises(UnknownNameError, match="unknown loss 'cross_entropi'; did you mean cross_entropy"):
        build_terms({"cross_entropi": 1.0}, {})
    with pytest.raises(UnknownNameError, match="did you mean temperature"):
        build_terms({"class_contrastive": 1.0}, {"class_contrastive": {"temprature": 1.0}})
    with pytest.raises(ConfigError, match=r"expected a value such as 0.1, got 'hot'"):
        build_terms({"class_contrastive": 1.0}, {"class_contrastive": {"temperature": "hot"}})


@pytest.mark.parametrize(("name", "output"), [("cross_entropy", "pooled"), ("mse", 3)])
def test_an_output_must_be_a_name_and_of_use(name: str, output: object) -> None:
    with pytest.raises(ConfigError, match=rf"loss_options.{name}.output: "):
        build_terms({name: 1.0}, {name: {"output": output}})


def test_batches_that_teach_nothing_are_refused() -> None:
    terms = build_terms({"cross_entropy": 1.0, "sample_contrastive": 1.0}, {})
    check_batch_size(terms, 2)
    with pytest.raises(
        ConfigError, match=r"train.global_batch_size: expected at least 2 for sample_contrastive, got 1"
    ):
        check_batch_size(terms, 1)


@pytest.mark.parametrize(("label", "what"), [(-1, "has no label"), (3, "has label 3"), (99, "has label 99")])
def test_a_label_that_is_no_class_is_named(label: int, what: str) -> None:
    labels = torch.tensor([0, label, 2])
    with pytest.raises(TrainingError, match=rf"sample y {what}; expected one of 3 classes"):
        objective({"cross_entropy": 1.0}, None).check_labels(("x", "y", "z"), labels)
    unlabelled = objective({"mse": 1.0, "sample_contrastive": 1.0}, teacher(WIDTH))
    unlabelled.check_labels(("x", "y", "z"), labels)
