"""How near a student's embeddings are to the teacher's of the same samples, in a space that both share."""

from typing import TYPE_CHECKING

import numpy as np

from embedkd.evaluation.bootstrap import REPLICATES, bootstrap, weighted_mean
from embedkd.evaluation.estimate import Estimate
from embedkd.evaluation.unit import unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def alignment(
    ours: "NDArray[np.float32]", theirs: "NDArray[np.float32]", *, seed: int = 0, replicates: int = REPLICATES
) -> "Iterator[tuple[str, Estimate]]":
    """Mean cosine of a student's and a teacher's embedding of a sample.

    It means something only in a shared space: that of equal width which the student learnt to meet, or after the
    projection that was trained with it.

    Args:
        ours: [N, D], finite; N at least 1.
        theirs: [N, D], of the same samples.
        seed: Of the bootstrap.
        replicates: Of the bootstrap.

    Yields:
        "cosine": the mean over samples.
        "cosine_others": the mean over all pairs of different samples, which is what "cosine" would be by chance: rows
        of one model often point the same way. Exact, so without an interval; left out for one sample.

    Raises:
        ValueError: Shapes differ.
    """
    if ours.ndim != 2 or ours.shape != theirs.shape:
        raise ValueError(f"expected embeddings [N, D] of both, got {ours.shape} and {theirs.shape}")
    student, teacher = (unit_rows(rows).astype(np.float64) for rows in (ours, theirs))
    cosines = (student * teacher).sum(axis=1)
    yield from bootstrap(
        {"cosine": weighted_mean(cosines, low=-1, high=1)}, len(ours), seed=seed, replicates=replicates
    )
    count = len(ours)
    if count > 1:
        others = float(student.sum(axis=0) @ teacher.sum(axis=0) - cosines.sum())
        yield "cosine_others", Estimate(others / (count * (count - 1)))
