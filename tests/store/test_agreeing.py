"""When two writers say the same: last bits may differ, samples, scales of logits and orders may not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from embedkd.records import OutputSpec
from embedkd.store.agreeing import SAME_COSINE, least_cosine, same_rows, same_values
from embedkd.store.quantising import encode
from embedkd.store.rows import FloatRows, TopRows

ALL = np.ones(50, np.bool_)


def floats(rows: NDArray[np.float32]) -> FloatRows:
    return FloatRows(rows.astype(np.float16))


def test_rows_of_floats() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    rows[4] = 0
    assert same_rows(floats(rows), floats(rows), ALL)
    nudged = rows.copy()
    nudged[0] *= np.float32(1.001)
    assert same_rows(floats(rows), floats(nudged), ALL), "a row of zeros is itself"
    for changed in (nudged * np.float32(1.02), -rows, rows[::-1], rows + (np.arange(50) == 4)[:, None]):
        assert not same_rows(floats(rows), floats(changed), ALL)
        assert not same_rows(floats(changed), floats(rows), ALL)
    other = rows.copy()
    other[7] = np.nan
    assert same_rows(floats(rows), floats(other), np.arange(50) != 7), "who has no row is not compared"
    assert not same_rows(floats(rows), floats(other), ALL)


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_int8_rows_by_two_scales_agree_as_far_as_their_steps_allow(scale: float) -> None:
    """A slot of another store had larger rows beside these, so both are rounded to other steps."""
    rng = np.random.default_rng(1)
    spec, ok = OutputSpec("cls", 32, "int8"), np.ones(50, np.uint8)
    said = rng.standard_t(2, size=(50, 32)).astype(np.float32)  # heavy tails: steps are coarse
    one = encode(spec, said, ok)
    beside = np.concatenate([said, scale * said])
    other = encode(spec, beside, np.ones(100, np.uint8)).rows.take(slice(0, 50))
    assert same_rows(one.rows, other, ALL, lost=one.error.max)
    assert not same_rows(one.rows, other.take(np.roll(np.arange(50), 1)), ALL, lost=one.error.max)
    assert not same_rows(one.rows, other.take(np.roll(np.arange(50), 1)), ALL, lost=2.0), "a stranger may say so"


def test_top_rows_may_swap_what_is_as_large_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    spec, ok = OutputSpec("logits", 40, "top5"), np.ones(50, np.uint8)
    said = rng.normal(size=(50, 40), scale=3).astype(np.float32)
    said[0, :8] = 12  # eight as large: which five are kept, last bits decide
    rows = encode(spec, said, ok).rows
    noisy = encode(spec, (said + rng.normal(size=said.shape) * 0.005).astype(np.float32), ok).rows
    assert isinstance(rows, TopRows)
    assert isinstance(noisy, TopRows)
    assert not np.array_equal(rows.index, noisy.index)
    assert same_rows(rows, noisy, ALL)
    assert same_rows(noisy, rows, ALL)
    others = [said[::-1], said * 1.1, said + np.eye(50, 40) * 9, np.roll(said, 1, axis=1)]
    for changed in others:
        other = encode(spec, changed.astype(np.float32), ok).rows
        assert not same_rows(rows, other, ALL)
        assert not same_rows(other, rows, ALL)
    assert same_rows(rows, encode(spec, said + 7, ok).rows, ALL), "a shift of all logits is nothing"


def test_limits() -> None:
    assert least_cosine() == pytest.approx(SAME_COSINE)
    assert least_cosine(1e-4) == pytest.approx(1 - 0.02**2)
    assert same_values(np.arange(5), np.arange(5))
    assert not same_values(np.arange(5), np.arange(5)[::-1])
    assert same_values(np.array([np.nan, 1]), np.array([np.nan, 1]))
