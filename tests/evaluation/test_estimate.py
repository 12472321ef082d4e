import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest  # type: ignore[import-untyped]

from embedkd.evaluation.estimate import Z_95, Estimate, proportion


def bounds(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.high


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_agrees_with_scipy(counts: tuple[int, int]) -> None:
    expected = binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert bounds(proportion(*counts)) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_holds_the_value_stays_within_0_and_1_and_mirrors(counts: tuple[int, int]) -> None:
    hits, trials = counts
    low, high = bounds(proportion(hits, trials))
    assert 0 <= low <= hits / trials <= high <= 1
    assert low < high
    assert bounds(proportion(trials - hits, trials)) == pytest.approx((1 - high, 1 - low))


@given(st.integers(1, 5_000), st.integers(1, 5_000))
def test_its_ends_are_where_a_z_test_turns(hits: int, misses: int) -> None:
    """Wilson's ends p solve |share - p| = z * sqrt(p (1 - p) / n), which is the definition of a score interval."""
    trials = hits + misses
    for p in bounds(proportion(hits, trials)):
        assert abs(hits / trials - p) == pytest.approx(Z_95 * math.sqrt(p * (1 - p) / trials), rel=1e-6)


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_refuses_what_is_no_proportion(hits: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"{hits} of {trials}"):
        proportion(hits, trials)
