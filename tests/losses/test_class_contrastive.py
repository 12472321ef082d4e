import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from sklearn.metrics.pairwise import cosine_similarity

from embedkd.errors import LossError
from embedkd.losses import LOSSES, class_contrastive, require_class_means


def naive(student: torch.Tensor, means: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    total = 0.0
    for row, label in zip(student.tolist(), labels.tolist(), strict=True):
        logits = [cosine(row, mean) / temperature for mean in means.tolist()]
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[label]
    return total / len(labels)


def draw_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(2)
    student = torch.randn(8, 6, generator=source, dtype=torch.float64)
    means = torch.randn(5, 6, generator=source, dtype=torch.float64)
    return student, means, torch.randint(5, (8,), generator=source)


def test_the_default_temperature_is_a_tenth() -> None:
    assert LOSSES["class_contrastive"].options == {"temperature": 0.1}


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_agrees_with_a_naive_loop(temperature: float) -> None:
    student, means, labels = draw_rows()

    value = class_contrastive(student, means, labels, temperature=temperature)

    assert value.item() == pytest.approx(naive(student, means, labels, temperature), rel=1e-12)


def test_agrees_with_scikit_learn() -> None:
    student, means, labels = draw_rows()
    logits = torch.from_numpy(cosine_similarity(student.numpy(), means.numpy())) / 0.1

    expected = log_loss(labels.numpy(), logits.softmax(dim=1).numpy(), labels=range(5))

    assert class_contrastive(student, means, labels).item() == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 64), st.floats(0.05, 10), st.floats(0.001, 1000))
def test_closed_forms(classes: int, temperature: float, scale: float) -> None:
    means, labels = scale * torch.eye(classes, dtype=torch.float64), torch.arange(classes)

    perfect = class_contrastive(means, means, labels, temperature=temperature)
    chance = class_contrastive(torch.ones_like(means), means, labels, temperature=temperature)

    assert perfect.item() == pytest.approx(math.log1p((classes - 1) * math.exp(-1 / temperature)), rel=1e-9, abs=1e-12)
    assert chance.item() == pytest.approx(math.log(classes), rel=1e-9, abs=1e-12)


def test_without_a_temperature_a_perfect_match_stays_dear() -> None:
    means = torch.eye(100)

    assert class_contrastive(means, means, torch.arange(100), temperature=1.0).item() == pytest.approx(3.62, abs=0.005)


def test_a_row_of_zeros_is_at_chance() -> None:
    _, means, _ = draw_rows()

    value = class_contrastive(torch.zeros(1, 6, dtype=torch.float64), means, torch.tensor([0]))

    assert value.item() == pytest.approx(math.log(5), rel=1e-12)


def test_the_order_of_classes_does_not_matter() -> None:
    student, means, labels = draw_rows()
    order = torch.tensor([2, 0, 4, 3, 1])

    value = class_contrastive(student, means[order], order.argsort()[labels])

    torch.testing.assert_close(value, class_contrastive(student, means, labels))


@settings(deadline=None, max_examples=15)
@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_only_directions_matter(student_scale: float, mean_scale: float) -> None:
    student, means, labels = draw_rows()

    value = class_contrastive(student_scale * student, mean_scale * means, labels)

    torch.testing.assert_close(value, class_contrastive(student, means, labels))


def test_descent_turns_the_student_towards_its_class() -> None:
    student, means, labels = draw_rows()
    student.requires_grad_()
    for _ in range(40):
        (gradient,) = torch.autograd.grad(class_contrastive(student, means, labels, reduction="sum"), student)
        student = (student - gradient).detach().requires_grad_()

    assert torch.equal((student.detach() @ torch.nn.functional.normalize(means).T).argmax(dim=1), labels)


def test_labels_outside_the_classes_are_refused() -> None:
    student, means, labels = draw_rows()

    with pytest.raises(LossError, match=r"losses.class_contrastive: expected labels from 0 to 4, got \d to 5"):
        class_contrastive(student, means, labels.clone().index_fill_(0, torch.tensor([3]), 5))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_cannot_divide_is_refused(temperature: float) -> None:
    with pytest.raises(LossError, match="expected a temperature above 0"):
        class_contrastive(*draw_rows(), temperature=temperature)


def test_means_of_all_classes_are_accepted() -> None:
    require_class_means(torch.zeros(3, 2), ["ant", "bee", "cat"])


@pytest.mark.parametrize(("names", "shown"), [(["ant", "bee", "cat"], "ant, cat"), (None, "0, 2")])
def test_classes_without_samples_are_named(names: list[str] | None, shown: str) -> None:
    means = torch.zeros(3, 2)
    means[[0, 2]] = torch.nan

    with pytest.raises(LossError) as caught:
        require_class_means(means, names)

    assert str(caught.value) == (
        f"losses.class_contrastive: expected a mean for each of 3 classes, got none for 2 ({shown}); "
        "add training samples of them or leave the loss out"
    )


def test_of_many_classes_without_samples_a_few_are_named() -> None:
    with pytest.raises(LossError, match=r"got none for 9 \(0, 1, 2, 3, 4, ...\)"):
        require_class_means(torch.full((9, 2), torch.nan))
