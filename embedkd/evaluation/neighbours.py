"""Whether student and teacher find the same samples alike; their embeddings may have different widths."""

from typing import TYPE_CHECKING, Final

import numpy as np

from embedkd.evaluation.bootstrap import REPLICATES, bootstrap, weighted_mean
from embedkd.evaluation.unit import unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from embedkd.evaluation.estimate import Estimate

NEIGHBOURS: Final = 10
_CELLS: Final = 1 << 24  # of a block of cosines: 64 MiB


def neighbour_overlap(
    ours: "NDArray[np.float32]",
    theirs: "NDArray[np.float32]",
    *,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> "Iterator[tuple[str, Estimate]]":
    """Mean share of a sample's nearest neighbours by cosine that student and teacher have in common.

    Source: the mutual k-NN metric of M. Huh et al. 2024, "The Platonic Representation Hypothesis".

    Args:
        ours: [N, d], finite.
        theirs: [N, D], of the same samples.
        neighbours: k; all N - 1 others where there are fewer.
        seed: Of the bootstrap.
        replicates: Of the bootstrap; draws are of samples, each with the neighbours that it has among all of them.

    Yields:
        ("neighbours", the mean with its interval), by chance k / (N - 1). Nothing for fewer than 3 samples.

    Raises:
        ValueError: The numbers of samples differ.
    """
    if ours.ndim != 2 or theirs.ndim != 2 or len(ours) != len(theirs):
        raise ValueError(f"expected embeddings [N, d] and [N, D], got {ours.shape} and {theirs.shape}")
    count = len(ours)
    if count < 3:
        return
    k = min(neighbours, count - 1)
    student, teacher = unit_rows(ours), unit_rows(theirs)
    shares = np.empty(count)
    block = max(1, _CELLS // count)
    for first in range(0, count, block):
        part = np.arange(first, min(first + block, count))
        mine, yours = _nearest(student, part, k), _nearest(teacher, part, k)
        shares[part] = (mine[:, :, None] == yours[:, None, :]).any(axis=2).mean(axis=1)
    yield from bootstrap({"neighbours": weighted_mean(shares, low=0, high=1)}, count, seed=seed, replicates=replicates)


def _nearest(rows: "NDArray[np.float32]", part: "NDArray[np.int64]", k: int) -> "NDArray[np.int64]":
    """Of some samples [n], which k others are nearest: [n, k], in no order."""
    cosines = rows[part] @ rows.T
    cosines[np.arange(len(part)), part] = -np.inf
    nearest: NDArray[np.int64] = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    return nearest
