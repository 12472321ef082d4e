"""Whether two sets of rows say the same: two forward passes of one teacher on two machines differ in last bits."""

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from embedkd.store.encoding import blocks
from embedkd.store.rows import TopRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedkd.store.rows import Rows

SAME_COSINE = 0.9999  # two forward passes of one teacher on two machines agree at least this well
SAME_NORM = 0.01  # and their rows are about as long: a cosine does not see another logit scale
SAME_LOGIT = 0.1  # of top-k logits, as far as float16 holds them; a row of 3s may differ as much by SAME_COSINE
MOST_LOST = 0.01  # so much is taken for what an encoding lost, whatever a store says of itself
_FLOAT16_STEP = 2.0**-10


def same_rows(ours: "Rows", theirs: "Rows", ok: "NDArray[np.bool_]", *, lost: float = 0.0) -> bool:
    """Whether rows are equal, or have a cosine of at least SAME_COSINE and lengths within SAME_NORM.

    Both limits are wider by what encoding may have changed on both sides. Rows of top-k logits say the same where the
    logits that both have are within SAME_LOGIT, and one that only one side has is as near to the last one of its row.

    Args:
        ours: [n, D].
        theirs: [n, D].
        ok: bool [n], the rows that both have; others are not looked at.
        lost: The largest 1 - cosine of a row to what was encoded, on either side; MOST_LOST counts where it is more.
    """
    places, lost = np.flatnonzero(ok), min(lost, MOST_LOST)
    if isinstance(ours, TopRows) and isinstance(theirs, TopRows):
        parts = blocks(len(places), ours.index.shape[1] ** 2)
        return all(_tops_agree(ours.take(places[part]), theirs.take(places[part])) for part in parts)
    width = len(ours[int(places[0])]) if len(places) else 1
    least, longer = least_cosine(lost, lost), SAME_NORM + 2 * sqrt(2 * lost)
    return all(
        _agree(ours.take(places[part]).decode(), theirs.take(places[part]).decode(), least, longer)
        for part in blocks(len(places), width)
    )


def least_cosine(*lost: float) -> float:
    """How far rows may be from each other that two machines computed, one or both of which were encoded.

    Args:
        lost: The largest 1 - cosine of a row to what was encoded, on each side that was.
    """
    return 1 - (sqrt(1 - SAME_COSINE) + sum(map(sqrt, lost))) ** 2


def same_values(ours: "NDArray[np.generic]", theirs: "NDArray[np.generic]") -> bool:
    """Whether two chunks are equal, NaN where the other is NaN."""
    return bool(np.array_equal(ours, theirs, equal_nan=np.issubdtype(ours.dtype, np.floating)))


def _agree(ours: "NDArray[np.floating]", theirs: "NDArray[np.floating]", least: float, longer: float) -> bool:
    differ = (ours != theirs).any(axis=1)
    a, b = ours[differ].astype(np.float64), theirs[differ].astype(np.float64)
    lengths_a, lengths_b = (np.linalg.norm(x, axis=1) for x in (a, b))
    close = (a * b).sum(axis=1) >= least * lengths_a * lengths_b
    return bool((close & (np.abs(lengths_a - lengths_b) <= longer * np.maximum(lengths_a, lengths_b))).all())


def _tops_agree(ours: TopRows, theirs: TopRows) -> bool:
    a, b = ours.value.astype(np.float64), theirs.value.astype(np.float64)
    both = ours.index[:, :, None] == theirs.index[:, None, :]
    near = np.abs(a[:, :, None] - b[:, None, :]) <= _tolerance(a)[:, :, None]
    if not near[both].all():
        return False
    alone = (~both.any(axis=2), a), (~both.any(axis=1), b)
    return all(bool((values - values[:, -1:] <= _tolerance(values))[mask].all()) for mask, values in alone)


def _tolerance(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return SAME_LOGIT + _FLOAT16_STEP * np.abs(values)
