"""How far a statistic would move on other samples of the same kind: intervals by drawing the samples again."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from embedkd.evaluation.estimate import Estimate
from embedkd.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    Weights = NDArray[np.float64]

REPLICATES: Final = 1000
_TAILS: Final = (2.5, 97.5)


@dataclass(frozen=True)
class Statistic:
    """A number about N samples of which each counts so many times.

    Attributes:
        of: From float64 [N], how often each sample counts, to the number; NaN where these samples do not tell.
        low: The least value there is; an interval ends there.
        high: The greatest, likewise.
    """

    of: "Callable[[Weights], float]"
    low: float = -math.inf
    high: float = math.inf


def bootstrap(
    statistics: "Mapping[str, Statistic]", rows: int, *, seed: int = 0, replicates: int = REPLICATES
) -> "Iterator[tuple[str, Estimate]]":
    """Values of statistics and their 95 % intervals, all from the same draws.

    The interval is the basic one: the value less the 97.5 % and the 2.5 % quantile of how far draws are from the value.
    It takes off what a draw adds, where the percentile interval adds it again: of a statistic that grows with noise, as
    a calibration error, that one lies above the truth. It always holds the value.

    Source: B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; A. C. Davison and
    D. V. Hinkley, Bootstrap Methods and their Application, 1997, section 5.2.

    Args:
        statistics: By name; those whose value is NaN are left out.
        rows: How many samples there are, at least 1.
        seed: Of the draws, which depend on nothing else.
        replicates: How many draws.

    Yields:
        (name, value with its interval; without one where less than half of the draws have a value).

    >>> heights = np.array([1.0, 2.0, 3.0, 4.0])
    >>> mean = Statistic(lambda weights: float(weights @ heights / weights.sum()), low=0)
    >>> ((name, found),) = bootstrap({"mean": mean}, 4)
    >>> name, found.value, found.low < 2.5 < found.high
    ('mean', 2.5, True)
    """
    if rows < 1:
        raise ValueError(f"expected at least 1 sample, got {rows}")
    once = np.ones(rows)
    values = {name: statistic.of(once) for name, statistic in statistics.items()}
    known = [name for name, value in values.items() if not math.isnan(value)]
    draw, again = generator(seed, "bootstrap", rows), np.empty((replicates, len(known)))
    for row in again:
        weights = np.bincount(draw.integers(0, rows, rows), minlength=rows).astype(np.float64)
        row[:] = [statistics[name].of(weights) for name in known]
    for name, column in zip(known, again.T, strict=True):
        yield name, _basic(values[name], column[~np.isnan(column)], statistics[name], replicates)


def _basic(value: float, draws: "NDArray[np.float64]", statistic: Statistic, replicates: int) -> Estimate:
    if 2 * len(draws) < replicates:
        return Estimate(value)
    least, most = np.percentile(draws, _TAILS)
    low, high = max(2 * value - float(most), statistic.low), min(2 * value - float(least), statistic.high)
    return Estimate(value, min(low, value), max(high, value))


def weighted_mean(values: "NDArray[np.float64]", *, low: float = -math.inf, high: float = math.inf) -> Statistic:
    """The mean of one number a sample, float64 [N]."""
    return Statistic(lambda weights: float(weights @ values / weights.sum()), low, high)
