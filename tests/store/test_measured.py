"""Measured errors: right where float32 sees nothing, and never too small after rows were cut, joined or recoded."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedkd.errors import FormatError
from embedkd.records import OutputSpec
from embedkd.store.documents import Fields
from embedkd.store.encoding import blocks
from embedkd.store.measured import BINS, EDGES, ErrorColumns, MeasuredError, cosine_distances
from embedkd.store.quantising import encode
from embedkd.store.rows import probabilities


def exact(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """1 - cosine from the definition, in 80-bit floats."""
    a, b = a.astype(np.longdouble), b.astype(np.longdouble)
    lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.asarray(1 - (a * b).sum(axis=1) / lengths, np.float64)


@pytest.mark.parametrize("dim", [1, 3, 768])
@pytest.mark.parametrize("step", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e25, 1e-25])
def test_distances_are_those_of_the_definition(dim: int, step: float, size: float) -> None:
    rng = np.random.default_rng([dim, int(1 / step)])
    a = (rng.normal(size=(200, dim)) * size).astype(np.float32)
    b = (a * (1 + step * rng.normal(size=a.shape))).astype(np.float32)
    found, expected = cosine_distances(a, b), exact(a, b)
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-3, atol=max(step, 1e-7) ** 2 * 1e-4 + 1e-19)


def test_distances_of_rows_that_are_special() -> None:
    a = np.array([[0, 0], [1, 2], [1, 2], [1, 0], [1e-40, 0], [3e38, 1e38]], np.float32)
    b = np.array([[0, 0], [0, 0], [1, 2], [0, 1], [0, 1e-40], [3e38, 1e38]], np.float32)
    np.testing.assert_allclose(cosine_distances(a, b), [0, 1, 0, 1, 1, 0], atol=1e-12)
    assert cosine_distances(-a[1:2], a[1:2]).tolist() == pytest.approx([2.0])


@pytest.mark.parametrize("encoding", ["float16", "float32", "bfloat16", "int8"])
def test_what_is_recorded_is_what_a_reader_measures(encoding: str) -> None:
    rng = np.random.default_rng(3)
    said, status = rng.normal(size=(300, 200)).astype(np.float32), np.ones(300, np.uint8)
    status[7], said[7] = 2, np.nan
    found = encode(OutputSpec("cls", 200, encoding), said, status)
    ok = status == 1
    distances = np.maximum(exact(said[ok], found.rows.decode()[ok]), 0)
    assert found.error.mean == pytest.approx(distances.mean(), rel=2e-3, abs=1e-15)
    assert found.error.max == pytest.approx(distances.max(), rel=6e-3, abs=1e-15)
    assert sum(found.error.histogram) == 299
    counts = [
        ((distances >= low) & (distances < high)).sum() for low, high in zip((-1, *EDGES), (*EDGES, 3), strict=True)
    ]
    assert np.abs(np.array(counts) - found.error.histogram).max() <= 2, "but for rows at an edge"
    typical = {"float16": 1e-7, "float32": 0.0, "bfloat16": 5e-6, "int8": 1e-4}
    assert found.error.mean <= typical[encoding]


def test_of_top_k_it_is_between_probabilities() -> None:
    said = np.random.default_rng(4).normal(size=(100, 50), scale=3).astype(np.float32)
    found = encode(OutputSpec("logits", 50, "top5"), said, np.ones(100, np.uint8))
    distances = exact(probabilities(said), probabilities(found.rows.decode()))
    assert found.error.mean == pytest.approx(distances.mean(), rel=5e-3)
    assert found.error.max == pytest.approx(distances.max(), rel=6e-3)
    assert found.rows.distances(said + 100) == pytest.approx(found.rows.distances(said), rel=1e-3), "a shift is nothing"


def test_the_error_is_the_same_whatever_lies_in_rows_that_are_not_ok() -> None:
    said = np.random.default_rng(5).normal(size=(50, 8)).astype(np.float32)
    status = np.ones(50, np.uint8)
    whole = encode(OutputSpec("cls", 8, "int8"), said[:30], status[:30]).error
    status[30:], said[30:] = 5, 1e30
    assert encode(OutputSpec("cls", 8, "int8"), said, status).error == whole


distances = st.lists(st.floats(0, 2), max_size=40).map(lambda values: np.array(values, np.float64))


@given(st.lists(distances, max_size=4))
def test_joined_is_what_all_rows_together_have(parts: list[NDArray[np.float64]]) -> None:
    joined = MeasuredError.joined(MeasuredError.of(part) for part in parts)
    whole = MeasuredError.of(np.concatenate([*parts, np.zeros(0)]))
    assert joined.histogram == whole.histogram
    assert joined.max == whole.max
    assert joined.mean == pytest.approx(whole.mean, rel=0.02, abs=1e-300)
    columns = ErrorColumns.of(MeasuredError.of(part) for part in parts)
    assert columns.joined() == joined
    assert [columns.at(at) for at in range(len(parts))] == [MeasuredError.of(part) for part in parts]


def at_most(real: MeasuredError, bound: MeasuredError) -> bool:
    """Whether a bound is one: of the mean, of the maximum, and of how many rows lie above each edge."""
    above = [np.cumsum(counts[::-1]) for counts in (real.histogram, bound.histogram)]
    return bool(
        real.rows == bound.rows
        and real.mean <= bound.mean * 1.02
        and real.max <= bound.max * 1.02
        and (above[0] <= above[1]).all()
    )


@given(distances, st.data())
def test_of_some_rows_it_is_never_too_small(whole: NDArray[np.float64], data: st.DataObject) -> None:
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole))), np.bool_)
    bound = MeasuredError.of(whole).of_some(int(kept.sum()))
    assert at_most(MeasuredError.of(whole[kept]), bound)
    assert MeasuredError.of(whole).of_some(len(whole)) == MeasuredError.of(whole)


@given(st.integers(0, 2**32), st.floats(0.001, 1), st.floats(0.001, 1))
def test_after_two_encodings_it_is_never_too_small(seed: int, first: float, second: float) -> None:
    rng = np.random.default_rng(seed)
    said = rng.normal(size=(20, 6))
    once = said + first * rng.normal(size=said.shape)
    twice = once + second * rng.normal(size=said.shape)
    bound = MeasuredError.of(np.maximum(exact(said, once), 0)).followed_by(np.maximum(exact(once, twice), 0))
    assert at_most(MeasuredError.of(np.maximum(exact(said, twice), 0)), bound)


def test_json() -> None:
    made = MeasuredError.of(np.array([3.14159e-8, 2e-4, 1.5]))
    assert made == MeasuredError(0.5, 1.5, (0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert MeasuredError.from_json(Fields(made.to_json(), "it")) == made
    columns = ErrorColumns.of([made, MeasuredError.of(np.zeros(0))])
    back = ErrorColumns.from_json(Fields(columns.to_json(), "it"), 2)
    assert [back.at(at) for at in range(2)] == [columns.at(at) for at in range(2)]


@pytest.mark.parametrize(
    "change",
    [
        *({name: value} for name in ("mean", "max") for value in (-0.1, 2.1, "1", None, True)),
        {"mean": 0.6},
        {"max": 1},
        {"histogram": [1] * (BINS - 1)},
        {"histogram": [1] * (BINS + 1)},
        {"histogram": [-1, *[1] * (BINS - 1)]},
        {"histogram": 5},
    ],
)
def test_what_is_no_error(change: dict[str, Any]) -> None:
    sound = {"mean": 0.25, "max": 0.5, "histogram": [1] * BINS}
    MeasuredError.from_json(Fields(sound, "it"))
    with pytest.raises(FormatError, match="it"):
        MeasuredError.from_json(Fields(sound | change, "it"))


@pytest.mark.parametrize(
    ("mean", "most"), [(-1.0, 0.0), (0.5, 0.4), (0.0, 2.5), (float("nan"), 1.0), (0.0, float("inf"))]
)
def test_columns_that_are_no_errors(mean: float, most: float) -> None:
    columns = ErrorColumns(np.array([mean]), np.array([most]), np.zeros((1, BINS), np.uint16))
    with pytest.raises(FormatError, match="it: expected means"):
        ErrorColumns.from_json(Fields(columns.to_json(), "it"), 1)


@given(st.integers(0, 2_000), st.integers(1, 200_000))
def test_blocks_are_all_rows_in_order(rows: int, width: int) -> None:
    assert [at for part in blocks(rows, width) for at in range(part.start, part.stop)] == list(range(rows))
