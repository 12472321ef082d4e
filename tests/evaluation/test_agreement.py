import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from embedkd.evaluation.agreement import answer_agreement


def test_agrees_with_scikit_learn_whoever_is_right() -> None:
    draw = np.random.default_rng(0)
    ours, theirs = draw.normal(size=(2, 300, 5)).astype(np.float32)
    labels = draw.integers(0, 5, 300)
    found = dict(answer_agreement(ours, theirs, labels))
    assert found["agreement"].value == accuracy_score(theirs.argmax(1), ours.argmax(1))
    assert found["teacher_top1"].value == accuracy_score(labels, theirs.argmax(1))
    assert found["agreement"].value == pytest.approx(0.2, abs=0.08), "chance is 1/C"


def test_both_may_be_wrong_together() -> None:
    logits = np.array([[0, 1, 0]] * 4, np.float32)
    found = dict(answer_agreement(logits, logits + 3, np.zeros(4, np.int64)))
    assert (found["agreement"].value, found["teacher_top1"].value) == (1.0, 0.0)


def test_teachers_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        list(answer_agreement(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32), np.zeros(2, np.int64)))
