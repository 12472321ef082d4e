import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from embedkd.evaluation.top1 import accuracy, label_ranks


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(6, 12))
def test_agrees_with_scikit_learn(seed: int, samples: int, classes: int) -> None:
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(samples, classes)).astype(np.float32)
    labels = draw.integers(0, classes, samples)
    found = dict(accuracy(logits, labels))
    assert found["top1"].value == accuracy_score(labels, logits.argmax(1))
    assert found["top5"].value == pytest.approx(
        top_k_accuracy_score(labels, logits, k=5, labels=np.arange(classes)), abs=1e-12
    )


@given(st.integers(0, 2**32 - 1))
def test_ties_are_broken_as_argmax_breaks_them(seed: int) -> None:
    draw = np.random.default_rng(seed)
    logits = draw.integers(0, 3, (30, 7)).astype(np.float32)
    labels = draw.integers(0, 7, 30)
    assert ((label_ranks(logits, labels) == 0) == (logits.argmax(1) == labels)).all()


def test_a_student_that_says_the_same_of_every_class_is_at_chance() -> None:
    found = dict(accuracy(np.zeros((20, 10), np.float32), np.arange(20) % 10))
    assert (found["top1"].value, found["top5"].value) == (0.1, 0.5)


def test_ranks_are_the_positions_in_a_stable_sort() -> None:
    logits = np.random.default_rng(0).integers(0, 4, (50, 8)).astype(np.float32)
    order = np.argsort(-logits, axis=1, kind="stable")
    for label in range(8):
        assert (label_ranks(logits, np.full(50, label)) == np.argwhere(order == label)[:, 1]).all()


@pytest.mark.parametrize(("classes", "names"), [(1, ["top1"]), (5, ["top1"]), (6, ["top1", "top5"])])
def test_top5_is_there_only_where_it_says_something(classes: int, names: list[str]) -> None:
    assert [name for name, _ in accuracy(np.zeros((3, classes), np.float32), np.zeros(3, np.int64))] == names


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), r"\(2, 3\) and \(3,\)"),
        (np.zeros(3), np.zeros(3, int), r"\(3,\) and \(3,\)"),
        (np.zeros((2, 3)), np.array([0, 3]), "0 to 2, got 0 to 3"),
        (np.zeros((2, 3)), np.array([-1, 2]), "0 to 2, got -1 to 2"),
    ],
)
def test_names_what_does_not_fit(logits: np.ndarray, labels: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(accuracy(logits.astype(np.float32), labels))
