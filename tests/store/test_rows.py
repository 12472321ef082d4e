"""Encodings: what comes back, within bounds in closed form, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from embedkd.records import OutputSpec, RowStatus
from embedkd.store.quantising import can_lead, encode, holds
from embedkd.store.rows import BfloatRows, FloatRows, Int8Rows, Rows, TopRows, rows_of
from embedkd.store.schema import output_schemas

ENCODINGS = ("float16", "float32", "bfloat16", "int8", "top2")
STATUSES = st.sampled_from([1, 1, 1, 2, 3, 5])
WILD = st.floats(width=32) | st.sampled_from([65_519.0, 65_520.0, 1e-45, 3.4e38, float("nan"), float("inf")])


def output(encoding: str, dim: int) -> OutputSpec:
    return OutputSpec("logits", dim, encoding)


@st.composite
def said(draw: st.DrawFn, elements: st.SearchStrategy[float] = WILD) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Rows of at least three values, and their status."""
    shape = draw(st.tuples(st.integers(0, 7), st.integers(3, 6)))
    rows = draw(hnp.arrays(np.float32, shape, elements=elements))
    return rows, draw(hnp.arrays(np.uint8, shape[0], elements=STATUSES))


tame = said(st.floats(-1e4, 1e4, width=32))


def nearest_bfloat16(value: np.float32) -> float:
    """By trying both neighbours: of two as near the one whose last bit is 0."""
    below = np.uint32(value.view(np.uint32) & 0xFFFF0000)
    pair = [np.array([below], np.uint32), np.array([below + np.uint32(0x10000)], np.uint32)]
    values = [float(bits.view(np.float32)[0]) for bits in pair]
    away = [abs(candidate - float(value)) for candidate in values]
    if away[0] != away[1]:
        return values[int(np.argmin(away))]
    return values[int(below >> 16 & 1)]


@given(said(), st.sampled_from(ENCODINGS))
def test_every_encoding_keeps_status_and_gives_numbers_exactly_where_it_is_ok(
    rows: tuple[NDArray[np.float32], NDArray[np.uint8]], encoding: str
) -> None:
    values, status = rows
    found = encode(output(encoding, values.shape[1]), values, status)
    fits = holds(output(encoding, values.shape[1]), values)
    expected = np.where((status == RowStatus.OK) & ~fits, RowStatus.NON_FINITE, status)
    np.testing.assert_array_equal(found.status, expected)
    ok = found.status == RowStatus.OK
    dense = found.rows.decode()
    assert dense.shape == values.shape
    assert dense.dtype == (np.float16 if encoding == "float16" else np.float32)
    assert np.isfinite(dense[ok]).all()
    assert np.isnan(dense[~ok]).all()
    assert found.rows.fault(ok) is None
    assert found.error.rows == ok.sum()
    for at, row in enumerate(dense):
        assert found.rows[at].tobytes() == row.tobytes(), "one row is that row of all"


@given(said(), st.sampled_from(ENCODINGS))
def test_rows_survive_their_arrays(rows: tuple[NDArray[np.float32], NDArray[np.uint8]], encoding: str) -> None:
    values, status = rows
    spec = output(encoding, values.shape[1])
    made = encode(spec, values, status).rows
    schemas = output_schemas("t-00000000", spec, slots=1, capacity=8)[:-1]
    chunks = []
    for schema, array in zip(schemas, made.arrays(), strict=True):
        chunk = np.full(schema.chunk, schema.fill, schema.dtype)
        chunk[: len(array)] = array
        chunks.append(chunk)
    assert rows_of(spec, chunks, len(values)).decode().tobytes() == made.decode().tobytes()


@given(tame)
def test_float16_and_float32_are_numpys(rows: tuple[NDArray[np.float32], NDArray[np.uint8]]) -> None:
    values, _ = rows
    ok = np.ones(len(values), np.uint8)
    for name in ("float16", "float32"):
        found = encode(output(name, values.shape[1]), values, ok)
        assert found.rows.decode().tobytes() == values.astype(name).tobytes()


@given(said(st.floats(-(2.0**127), 2.0**127, width=32)))
def test_bfloat16_is_the_nearest(rows: tuple[NDArray[np.float32], NDArray[np.uint8]]) -> None:
    values, _ = rows
    found = encode(output("bfloat16", values.shape[1]), values, np.ones(len(values), np.uint8)).rows.decode()
    expected = [nearest_bfloat16(value) for value in values.ravel()]
    np.testing.assert_array_equal(found.ravel(), np.array(expected, np.float32))
    normal = np.abs(values) >= np.finfo(np.float32).tiny
    assert (np.abs(found - values)[normal] <= np.abs(values)[normal] * 2.0**-8).all()


@given(tame)
def test_int8_is_within_half_a_step(rows: tuple[NDArray[np.float32], NDArray[np.uint8]]) -> None:
    values, status = rows
    found = encode(output("int8", values.shape[1]), values, status)
    ok = found.status == RowStatus.OK
    scale, codes = found.rows.arrays()
    assert (scale.dtype.name, scale.shape, codes.dtype.name) == ("float32", (1, values.shape[1]), "int8")
    largest = np.abs(values[ok]).max(axis=0, initial=0).astype(np.float64)
    np.testing.assert_allclose(scale[0], np.where(largest / 127 < 2.0**-126, 0, largest / 127), rtol=1e-6, atol=1e-44)
    away = np.abs(found.rows.decode()[ok].astype(np.float64) - values[ok])
    assert (away <= scale.astype(np.float64) / 2 * (1 + 1e-5) + 2.0**-119).all()
    assert (codes[~ok] == -128).all()
    assert (np.abs(codes[ok].astype(int)) <= 127).all()


def test_int8_of_the_largest_value_is_exact_and_of_nothing_is_nothing() -> None:
    values = np.array([[127.0, 0.0, 1e-40], [-63.5, 0.0, -1e-40]], np.float32)
    found = encode(output("int8", 3), values, np.ones(2, np.uint8))
    np.testing.assert_array_equal(found.rows.decode()[0], [127.0, 0.0, 0.0])
    assert found.rows.arrays()[0].tolist() == [[1.0, 0.0, 0.0]]
    assert found.rows.arrays()[1].tolist() == [[127, 0, 0], [-64, 0, 0]], "halves to even"


@given(said(st.floats(-50, 50, width=32) | st.sampled_from([0.0, -0.0, 1.0])), st.integers(1, 2))
def test_top_k_are_the_largest_in_order(rows: tuple[NDArray[np.float32], NDArray[np.uint8]], count: int) -> None:
    values, status = rows
    found = encode(output(f"top{count}", values.shape[1]), values, status)
    index, kept = found.rows.arrays()
    for at, row in enumerate(values):
        if status[at] != RowStatus.OK:
            assert index[at].tolist() == [-1] * count
            assert np.isnan(kept[at]).all()
            continue
        order = sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))  # type: ignore[misc]
        assert index[at].tolist() == order[:count]
        exact = row.astype(np.float64)
        logs = exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())
        np.testing.assert_array_equal(kept[at], logs[order[:count]].astype(np.float16))
        decoded = found.rows[at].astype(np.float64)
        rest = np.delete(decoded, order[:count])
        share = max(1 - np.exp(kept[at].astype(np.float64)).sum(), 2.0**-24) / (len(row) - count)
        np.testing.assert_allclose(rest, min(np.log(share), float(kept[at][-1])), rtol=1e-6)
        assert (rest <= decoded[order[count - 1]]).all(), "nothing passes what was larger"


def test_top_k_of_logits_that_are_far_apart_stays_finite() -> None:
    values = np.array([[3e38, -3e38, 0.0], [1e5, 0.0, -1e5]], np.float32)
    found = encode(output("top2", 3), values, np.ones(2, np.uint8))
    assert found.rows.arrays()[1].tolist() == [[0.0, -65_504.0], [0.0, -65_504.0]]
    assert found.rows.fault(np.ones(2, np.bool_)) is None
    assert found.error.max < 1e-6


def test_ties_at_the_end_go_to_the_first() -> None:
    values = np.zeros((2, 1000), np.float32)
    values[1, ::2] = 1
    found = encode(output("top5", 1000), values, np.ones(2, np.uint8))
    assert found.rows.arrays()[0].tolist() == [[0, 1, 2, 3, 4], [0, 2, 4, 6, 8]]


LIMITS = {"float16": 65_520.0, "bfloat16": float.fromhex("0x1.ffp+127"), "int8": 2.0**127}


@pytest.mark.parametrize("encoding", LIMITS)
def test_values_that_are_just_too_large(encoding: str) -> None:
    least = np.float32(LIMITS[encoding])
    values = np.array([[least, 0, 0], [np.nextafter(least, np.float32(0)), 0, 1], [-least, 0, 0]], np.float32)
    found = encode(output(encoding, 3), values, np.ones(3, np.uint8))
    assert found.status.tolist() == [RowStatus.NON_FINITE, RowStatus.OK, RowStatus.NON_FINITE]
    assert np.isfinite(found.rows.decode()[1]).all()


def sound(encoding: str, rows: int = 6, dim: int = 5) -> tuple[OutputSpec, Rows, NDArray[np.bool_]]:
    rng, status = np.random.default_rng(0), np.array([1, 1, 2, 1, 1, 1][:rows], np.uint8)
    spec = output(encoding, dim)
    return spec, encode(spec, rng.normal(size=(rows, dim)).astype(np.float32), status).rows, status == 1


def changed(array: NDArray[Any], at: tuple[int, ...], value: float) -> NDArray[Any]:
    copy = array.copy()
    copy[at] = value
    return copy


@pytest.mark.parametrize(
    ("encoding", "array", "at", "value", "says"),
    [
        ("float16", 0, (1, 2), np.nan, "status"),
        ("float32", 0, (1, 2), np.inf, "status"),
        ("float16", 0, (2,), 0, "status"),
        ("bfloat16", 0, (1, 2), 0x7FC0, "status"),
        ("bfloat16", 0, (1, 2), 0xFF80, "status"),
        ("bfloat16", 0, (2,), 0, "status"),
        ("int8", 0, (0, 1), np.nan, "scale"),
        ("int8", 0, (0, 1), np.inf, "scale"),
        ("int8", 0, (0, 1), -1e-9, "scale"),
        ("int8", 0, (0, 1), 3e38, "scale"),
        ("int8", 1, (1, 2), -128, "status"),
        ("int8", 1, (2, 2), 0, "status"),
        ("int8", 1, (2,), 0, "status"),
        ("top3", 0, (1, 2), 5, "index"),
        ("top3", 0, (1, 2), -2, "index"),
        ("top3", 0, (1, 2), -1, "index"),
        ("top3", 0, (1,), 2, "index"),
        ("top3", 0, (2,), 0, "status"),
        ("top3", 1, (2, 0), -1, "status"),
        ("top3", 1, (1, 0), 0.5, "log-probabilities"),
        ("top3", 1, (1, 0), np.nan, "log-probabilities"),
        ("top3", 1, (1, 2), -np.inf, "log-probabilities"),
        ("top3", 1, (1, 2), -0.001, "log-probabilities"),
        ("top3", 1, (1,), -0.5, "log-probabilities"),
    ],
)
def test_rows_that_cannot_be(encoding: str, array: int, at: tuple[int, ...], value: float, says: str) -> None:
    spec, rows, ok = sound(encoding)
    arrays = [np.asarray(part) for part in rows.arrays()]
    assert rows_of(spec, arrays, 6).fault(ok) is None
    arrays[array] = changed(arrays[array], at, value)
    fault = rows_of(spec, arrays, 6).fault(ok)
    assert fault is not None
    assert says in fault


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_taking_joining_and_dropping(encoding: str) -> None:
    _, rows, _ = sound(encoding)
    dense = rows.decode()
    places = np.array([5, 0, 0, 2])
    assert rows.take(places).decode().tobytes() == dense[places].tobytes()
    assert rows.take(slice(1, 4)).decode().tobytes() == dense[1:4].tobytes()
    parts = [rows.take(slice(0, 2)), rows.take(slice(2, 2)), rows.take(slice(2, 6))]
    assert type(rows).joined(parts).decode().tobytes() == dense.tobytes()
    lost = np.array([True, False, False, False, True, False])
    left = rows.without(lost).decode()
    assert np.isnan(left[lost]).all()
    assert left[~lost].tobytes() == dense[~lost].tobytes()
    assert len(rows.without(lost)) == len(rows) == 6


def test_joined_int8_rows_keep_their_own_scales_until_they_are_stored() -> None:
    rng = np.random.default_rng(1)
    spec = output("int8", 4)
    parts: list[Any] = [
        encode(spec, (rng.normal(size=(3, 4)) * size).astype(np.float32), np.ones(3, np.uint8)).rows for size in (1, 50)
    ]
    joined = Int8Rows.joined(parts)
    assert joined.decode().tobytes() == np.concatenate([part.decode() for part in parts]).tobytes()
    assert not joined.is_storable
    assert joined.take(slice(3, 6)).is_storable
    assert joined.take(slice(3, 6)).arrays()[0].tobytes() == parts[1].arrays()[0].tobytes()
    assert joined.take(slice(0, 0)).is_storable


@pytest.mark.parametrize(("encoding", "scale"), [("int8", 1.001), ("top3", 1.0)])
def test_rows_by_the_scale_or_the_index_of_another(encoding: str, scale: float) -> None:
    """Two machines: the other's values differ in last bits, and ours have to fit what it stored."""
    rng, ok = np.random.default_rng(2), np.ones(400, np.uint8)
    spec = output(encoding, 12)
    ours = rng.normal(size=(400, 12)).astype(np.float32)
    theirs = (ours * scale + rng.normal(size=ours.shape) * 1e-3).astype(np.float32)
    lead = encode(spec, theirs, ok).rows.arrays()[0]
    natural, led = encode(spec, ours, ok), encode(spec, ours, ok, lead=lead)
    assert led.rows.arrays()[0].tobytes() == lead.tobytes() != natural.rows.arrays()[0].tobytes()
    assert led.rows.fault(ok == 1) is None
    assert led.error.max < 2 * natural.error.max + 1e-5
    assert can_lead(spec, lead, ok == 1)


@pytest.mark.parametrize(
    ("encoding", "at", "value"),
    [("int8", (0, 1), np.nan), ("top3", (1, 2), 5), ("top3", (2, 0), 0), ("top3", (1,), -1)],
)
def test_what_cannot_lead(encoding: str, at: tuple[int, ...], value: float) -> None:
    spec, rows, ok = sound(encoding)
    lead = np.asarray(rows.arrays()[0])
    assert can_lead(spec, lead, ok)
    assert not can_lead(spec, changed(lead, at, value), ok)


def test_kinds() -> None:
    kinds = [type(sound(encoding)[1]) for encoding in ENCODINGS]
    assert kinds == [FloatRows, FloatRows, BfloatRows, Int8Rows, TopRows]
