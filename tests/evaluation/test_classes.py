import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from embedkd.evaluation import classes as module
from embedkd.evaluation.classes import class_means, count_classes
from embedkd.evaluation.estimate import Estimate


def draw_answers(seed: int, rows: int = 60, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rows, classes)).astype(np.float32), draw.integers(0, classes, rows)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 9))
def test_counts_are_the_whole_confusion_matrix(seed: int, rows: int, classes: int) -> None:
    logits, labels = draw_answers(seed, rows, classes)
    counts, confusions = count_classes(logits, labels)
    matrix = np.diag(counts.hits)
    for label, answer, times in confusions.pairs:
        matrix[label, answer] += times
    expected = confusion_matrix(labels, logits.argmax(1), labels=np.arange(classes))
    assert (matrix == expected).all()
    assert confusions.left_out == 0
    assert counts.rows == tuple(expected.sum(1))
    assert counts.answers == tuple(expected.sum(0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_agrees_with_scikit_learn(seed: int, rows: int) -> None:
    logits, labels = draw_answers(seed, rows)
    answers, present = logits.argmax(1), np.unique(labels)
    found = dict(class_means(logits, labels, replicates=2))
    counts, _ = count_classes(logits, labels)
    f1 = f1_score(labels, answers, labels=present, average=None, zero_division=0)
    assert found["macro_f1"].value == pytest.approx(f1.mean())
    assert found["balanced"].value == pytest.approx(
        recall_score(labels, answers, labels=present, average="macro", zero_division=0)
    )
    precision = precision_score(labels, answers, labels=present, average=None, zero_division=0)
    for at, label in enumerate(present.tolist()):
        assert counts.f1(label) == pytest.approx(f1[at])
        assert (counts.precision(label) or 0.0) == pytest.approx(precision[at])
    if set(answers) <= set(labels):
        assert found["balanced"].value == pytest.approx(balanced_accuracy_score(labels, answers))


def test_a_class_without_samples_has_no_recall_and_counts_in_no_mean() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 0, 2]]
    counts, _ = count_classes(logits, np.array([0, 0, 0]))
    assert [counts.recall(label) for label in range(3)] == [2 / 3, None, None]
    assert [counts.precision(label) for label in range(3)] == [1.0, None, 0.0]
    assert [counts.f1(label) for label in range(3)] == [0.8, None, None]
    assert dict(class_means(logits, np.array([0, 0, 0])))["balanced"].value == pytest.approx(2 / 3)


def test_the_most_frequent_confusions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    answers = np.array([1, 1, 2, 0, 1, 0])
    logits = np.eye(3, dtype=np.float32)[answers]
    assert count_classes(logits, labels)[1].pairs == ((0, 1, 2), (0, 2, 1), (1, 0, 1), (2, 0, 1))
    monkeypatch.setattr(module, "MOST_PAIRS", 2)
    _, kept = count_classes(logits, labels)
    assert kept == module.Confusions(((0, 1, 2), (0, 2, 1)), 2)


def test_a_rare_class_weighs_as_much_as_a_frequent_one() -> None:
    labels = np.array([0] * 99 + [1])
    found = dict(class_means(np.tile(np.array([1, 0], np.float32), (100, 1)), labels))
    assert found["balanced"].value == 0.5
    assert found["balanced"].low is not None
    assert isinstance(found["macro_f1"], Estimate)
    assert found["macro_f1"].value == pytest.approx((2 * 99 / 199) / 2)


def test_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="0 to 5, got 0 to 6"):
        count_classes(draw_answers(0, 2)[0], np.array([0, 6]))
