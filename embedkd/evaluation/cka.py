"""Whether two embeddings have the same geometry, whatever their axes and widths: centred kernel alignment."""

from typing import TYPE_CHECKING, Final

import numpy as np

from embedkd.evaluation.estimate import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

LEAST_ROWS: Final = 4
"""Below it the estimate does not exist."""


def linear_cka(ours: "NDArray[np.float32]", theirs: "NDArray[np.float32]") -> "Iterator[tuple[str, Estimate]]":
    """Linear CKA without the bias that few samples of wide rows have: 1 for a rotation and a scale, 0 by chance.

    The plain estimate says 0.9 of two independent sets of 100 samples with 768 dimensions; this one is made of unbiased
    estimates of HSIC (L. Song et al. 2012, "Feature Selection via Dependence Maximization", equation 5), and may be
    below 0. It is computed from rows and sums, without the [N, N] matrices of similarities.

    Source: S. Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited"; T. Nguyen et al. 2021,
    "Do Wide and Deep Networks Learn the Same Things?", section 3.

    Args:
        ours: [N, d], finite.
        theirs: [N, D], of the same samples.

    Yields:
        ("cka", the value). No interval: a sample that is drawn twice is similar to itself. Nothing for fewer than 4
        samples, or where the rows of one side are all the same.

    Raises:
        ValueError: The numbers of samples differ.
    """
    if ours.ndim != 2 or theirs.ndim != 2 or len(ours) != len(theirs):
        raise ValueError(f"expected embeddings [N, d] and [N, D], got {ours.shape} and {theirs.shape}")
    if len(ours) < LEAST_ROWS:
        return
    student, teacher = _centred(ours), _centred(theirs)
    spreads = _hsic(student, student) * _hsic(teacher, teacher)
    if spreads > 0:
        yield "cka", Estimate(float(_hsic(student, teacher) / np.sqrt(spreads)))


def _centred(rows: "NDArray[np.float32]") -> "NDArray[np.float64]":
    """Less their mean and of mean square 1, which changes nothing but rounding."""
    wide = rows.astype(np.float64)
    wide /= max(float(np.abs(wide).max()), np.finfo(np.float64).tiny)
    centred: NDArray[np.float64] = wide - wide.mean(axis=0)
    size = float(np.sqrt((centred**2).mean()))
    return centred / size if size > np.finfo(np.float32).eps else np.zeros_like(centred)


def _hsic(left: "NDArray[np.float64]", right: "NDArray[np.float64]") -> float:
    """Song's estimate, but for a factor that cancels, of K = left left', L = right right' with empty diagonals.

    tr(KL) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'KL1
    """
    rows = len(left)
    own_left, own_right = (left**2).sum(axis=1), (right**2).sum(axis=1)
    sums_left, sums_right = left @ left.sum(axis=0) - own_left, right @ right.sum(axis=0) - own_right
    trace = float(((left.T @ right) ** 2).sum() - own_left @ own_right)
    whole = float(sums_left.sum() * sums_right.sum()) / ((rows - 1) * (rows - 2))
    return trace + whole - 2 / (rows - 2) * float(sums_left @ sums_right)
