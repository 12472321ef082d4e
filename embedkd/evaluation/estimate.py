"""One measured number and how sure of it a test set of this size can be."""

import math
from dataclasses import asdict, dataclass
from typing import Any

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """A value and, where it has one, its 95 % interval; all in the value's own unit.

    Attributes:
        value: What was measured.
        low: Lower end of the interval; None where the value is exact or no interval is known.
        high: Upper end, likewise.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for evaluation.json."""
        return asdict(self)


def proportion(hits: int, trials: int) -> Estimate:
    """A share of independent yes-or-no trials, with Wilson's score interval.

    Unlike the textbook's value +- 1.96 standard errors it stays within [0, 1], and 0 of n still leaves room above 0.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.

    Args:
        hits: Trials that said yes, from 0 to ``trials``.
        trials: At least 1.

    Raises:
        ValueError: ``hits`` of ``trials`` is no proportion.

    >>> share = proportion(45, 100)
    >>> f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"
    '0.450 [0.356, 0.548]'
    """
    if not 0 <= hits <= trials or trials == 0:
        raise ValueError(f"expected 0 to {trials} hits of at least 1 trial, got {hits} of {trials}")
    share, z2 = hits / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    # At 0 and at all hits the ends are exactly 0 and 1, which the arithmetic misses by rounding.
    return Estimate(share, 0.0 if hits == 0 else centre - half, 1.0 if hits == trials else centre + half)
