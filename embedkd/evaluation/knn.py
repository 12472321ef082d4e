"""How well an embedding alone separates the classes: the label of its nearest neighbours among training samples."""

from typing import TYPE_CHECKING

from sklearn.neighbors import KNeighborsClassifier

from embedkd.evaluation.estimate import Estimate, proportion
from embedkd.evaluation.unit import unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

NEIGHBOURS = 20


def knn_accuracy(
    bank: "NDArray[np.float32]",
    bank_labels: "NDArray[np.int64]",
    queries: "NDArray[np.float32]",
    labels: "NDArray[np.int64]",
    *,
    neighbours: int = NEIGHBOURS,
) -> "Iterator[tuple[str, Estimate]]":
    """Accuracy of a vote of the nearest training samples by cosine, each weighted by 1 / (1 - cosine).

    Lengths of embeddings do not matter. A class without sample in the bank cannot be hit and counts as a miss.

    Args:
        bank: [M, d], finite; M at least 1. The training samples.
        bank_labels: [M].
        queries: [N, d], finite; N at least 1. The samples to classify, none of them in the bank.
        labels: [N].
        neighbours: Votes; all M where the bank has fewer.

    Yields:
        ("knn", share of right votes with its 95 % interval). Chance is 1/C for a balanced bank.

    Raises:
        ValueError: Shapes that do not belong together.
    """
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise ValueError(f"expected embeddings [M, d] and [N, d], got {bank.shape} and {queries.shape}")
    vote = KNeighborsClassifier(min(neighbours, len(bank)), weights="distance", metric="cosine", algorithm="brute")
    vote.fit(unit_rows(bank), bank_labels)
    yield "knn", proportion(int((vote.predict(unit_rows(queries)) == labels).sum()), len(labels))
