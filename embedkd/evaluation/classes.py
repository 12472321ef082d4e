"""How a student does class by class: counts for a table, what it takes for what, and means over classes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from embedkd.evaluation.bootstrap import REPLICATES, Statistic, bootstrap
from embedkd.evaluation.top1 import check_labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from embedkd.evaluation.estimate import Estimate

MOST_PAIRS: Final = 4096  # all cells of the confusion matrix of 64 classes
MOST_CLASSES: Final = 1 << 15


@dataclass(frozen=True)
class ClassCounts:
    """Counts for each of C classes; with `Confusions` they are the whole confusion matrix.

    Attributes:
        rows: Samples of the class.
        hits: Of these, how many were classified as it.
        answers: Samples of any class that were classified as it.
    """

    rows: tuple[int, ...]
    hits: tuple[int, ...]
    answers: tuple[int, ...]

    def recall(self, label: int) -> float | None:
        """Share of the class's samples that were found; None without samples."""
        return self.hits[label] / self.rows[label] if self.rows[label] else None

    def precision(self, label: int) -> float | None:
        """Share of right ones among the answers of this class; None without answers."""
        return self.hits[label] / self.answers[label] if self.answers[label] else None

    def f1(self, label: int) -> float | None:
        """Harmonic mean of both; 0 where nothing was found, None without samples."""
        whole = self.rows[label] + self.answers[label]
        return 2 * self.hits[label] / whole if self.rows[label] else None


@dataclass(frozen=True)
class Confusions:
    """What was taken for what: cells of the confusion matrix beside its diagonal, the greatest first.

    Attributes:
        pairs: Label, answer, and how many samples; equal ones in the order of label and answer.
        left_out: Misses in cells that are not among them, where there are more than `MOST_PAIRS`.
    """

    pairs: tuple[tuple[int, int, int], ...]
    left_out: int


def count_classes(logits: "NDArray[np.float32]", labels: "NDArray[np.int64]") -> tuple[ClassCounts, Confusions]:
    """Count answers, the class with the greatest logit (of equal ones the first), class by class.

    Args:
        logits: [N, C], finite.
        labels: [N], from 0 to C - 1.

    Raises:
        ValueError: Shapes that do not belong together, or a label that is no column.
    """
    answers, classes = _answers(logits, labels), logits.shape[1]
    hits = np.bincount(labels[answers == labels], minlength=classes)
    counts = ClassCounts(
        tuple(np.bincount(labels, minlength=classes).tolist()),
        tuple(hits.tolist()),
        tuple(np.bincount(answers, minlength=classes).tolist()),
    )
    missed = answers != labels
    cells, times = np.unique(labels[missed] * classes + answers[missed], return_counts=True)
    order = np.argsort(-times, kind="stable")
    kept = order[:MOST_PAIRS]
    pairs = zip((cells[kept] // classes).tolist(), (cells[kept] % classes).tolist(), times[kept].tolist(), strict=True)
    return counts, Confusions(tuple(pairs), int(times[order[MOST_PAIRS:]].sum()))


def class_means(
    logits: "NDArray[np.float32]", labels: "NDArray[np.int64]", *, seed: int = 0, replicates: int = REPLICATES
) -> "Iterator[tuple[str, Estimate]]":
    """Means in which each class that has samples counts the same, however many it has.

    Args:
        logits: [N, C], finite; N at least 1.
        labels: [N], from 0 to C - 1.
        seed: Of the bootstrap.
        replicates: Of the bootstrap.

    Yields:
        "balanced": mean recall (scikit-learn's ``balanced_accuracy_score``); chance is 1/C.
        "macro_f1": mean F1 over the classes that have samples (``f1_score`` with these as ``labels``).

    Raises:
        ValueError: Shapes that do not belong together, or a label that is no column.
    """
    answers, classes = _answers(logits, labels), logits.shape[1]
    right = (answers == labels).astype(np.float64)

    def count(weights: "NDArray[np.float64]") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        return _per_class(labels, weights, classes), _per_class(labels, weights * right, classes)

    def balanced(weights: "NDArray[np.float64]") -> float:
        rows, hits = count(weights)
        return float((hits[rows > 0] / rows[rows > 0]).mean())

    def macro_f1(weights: "NDArray[np.float64]") -> float:
        rows, hits = count(weights)
        whole = rows + _per_class(answers, weights, classes)
        return float((2 * hits[rows > 0] / whole[rows > 0]).mean())

    statistics = {"balanced": Statistic(balanced, 0, 1), "macro_f1": Statistic(macro_f1, 0, 1)}
    yield from bootstrap(statistics, len(labels), seed=seed, replicates=replicates)


def _answers(logits: "NDArray[np.float32]", labels: "NDArray[np.int64]") -> "NDArray[np.int64]":
    check_labels(logits, labels)
    answers: NDArray[np.int64] = logits.argmax(axis=1).astype(np.int64)
    return answers


def _per_class(labels: "NDArray[np.int64]", weights: "NDArray[np.float64]", classes: int) -> "NDArray[np.float64]":
    sums: NDArray[np.float64] = np.bincount(labels, weights, classes).astype(np.float64)
    return sums
