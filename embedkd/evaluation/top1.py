"""How often the right class has the greatest logit, or one of the five greatest."""

from typing import TYPE_CHECKING

import numpy as np

from embedkd.evaluation.estimate import Estimate, proportion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def check_labels(logits: "NDArray[np.float32]", labels: "NDArray[np.int64]") -> None:
    """Refuse labels [N] that are no columns of logits [N, C].

    Raises:
        ValueError: Shapes that do not belong together, or a label that is no column.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"expected logits [N, C] and labels [N], got {logits.shape} and {labels.shape}")
    classes = logits.shape[1]
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")


def label_ranks(logits: "NDArray[np.float32]", labels: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """How many classes each sample's logits put before its label; 0 is a top-1 hit.

    Equal logits are ordered by class, as ``argmax`` does it, so a student that says the same of every class is right
    about class 0 alone.

    Args:
        logits: [N, C], finite.
        labels: [N], from 0 to C - 1.

    Returns:
        [N], from 0 to C - 1.

    Raises:
        ValueError: Shapes that do not belong together, or a label that is no column.

    >>> label_ranks(np.float32([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([2, 1])).tolist()
    [1, 1]
    """
    check_labels(logits, labels)
    classes = logits.shape[1]
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = np.arange(classes) < labels[:, None]
    ranks: NDArray[np.int64] = ((logits > own) | ((logits == own) & before)).sum(axis=1, dtype=np.int64)
    return ranks


def accuracy(logits: "NDArray[np.float32]", labels: "NDArray[np.int64]") -> "Iterator[tuple[str, Estimate]]":
    """Top-1, and top-5 where there are more than five classes to choose from.

    Args:
        logits: [N, C], finite; N at least 1.
        labels: [N], from 0 to C - 1.

    Yields:
        ("top1", share with its 95 % interval), then ("top5", likewise). Chance is 1/C and 5/C.

    Raises:
        ValueError: Shapes that do not belong together, or a label that is no column.
    """
    ranks = label_ranks(logits, labels)
    for k in (1, 5):
        if k == 1 or logits.shape[1] > k:
            yield f"top{k}", proportion(int((ranks < k).sum()), len(ranks))
