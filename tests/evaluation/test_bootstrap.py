import math

import numpy as np
import pytest
from scipy.stats import bootstrap as reference  # type: ignore[import-untyped]

from embedkd.evaluation.bootstrap import Statistic, bootstrap, weighted_mean
from embedkd.evaluation.estimate import Estimate


def of_mean(values: np.ndarray, **options: float) -> Estimate:
    ((_, found),) = bootstrap({"mean": weighted_mean(values, **options)}, len(values))
    return found


def test_agrees_with_scipys_basic_interval_but_for_its_draws() -> None:
    values = np.random.default_rng(0).exponential(size=400)
    theirs = reference((values,), np.mean, method="basic", rng=np.random.default_rng(1)).confidence_interval
    ours = of_mean(values)
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_holds_the_truth_as_often_as_it_says() -> None:
    draw, inside = np.random.default_rng(2), 0
    for _ in range(120):
        ((_, found),) = bootstrap({"mean": weighted_mean(draw.normal(3, 1, 60))}, 60, replicates=200)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 3 <= found.high
    assert 0.88 <= inside / 120 <= 0.99


def test_a_statistic_that_noise_lifts_has_its_interval_below_the_draws() -> None:
    values = np.random.default_rng(3).normal(0, 1, 50)
    statistic = Statistic(lambda weights: abs(float(weights @ values / weights.sum())) + 0.1, low=0)
    ((_, found),) = bootstrap({"size": statistic}, 50)
    assert found.low is not None
    assert found.low <= found.value
    assert found.high is not None
    assert found.high >= found.value


def test_is_a_function_of_the_seed_alone() -> None:
    values = np.random.default_rng(4).normal(size=30)
    one, again, other = (
        dict(bootstrap({"mean": weighted_mean(values)}, 30, seed=seed, replicates=50)) for seed in (0, 0, 1)
    )
    assert one == again != other


def test_stays_within_what_there_is_and_holds_the_value() -> None:
    assert of_mean(np.array([1.0] * 9 + [0.0]), low=0, high=1).high == 1.0
    same = of_mean(np.full(5, 0.25))
    assert (same.low, same.high) == (0.25, 0.25)


def test_what_has_no_value_is_left_out_and_what_draws_seldom_tell_has_no_interval() -> None:
    never = Statistic(lambda _: math.nan)
    seldom = Statistic(lambda weights: 1.0 if weights.min() > 0 else math.nan)
    found = dict(bootstrap({"never": never, "seldom": seldom}, 20, replicates=100))
    assert found == {"seldom": Estimate(1.0)}


def test_refuses_no_samples() -> None:
    with pytest.raises(ValueError, match="at least 1 sample"):
        list(bootstrap({}, 0))
