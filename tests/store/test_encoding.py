"""Chunks: what goes in comes out, and no bit can change unseen."""

import subprocess
import sys
from contextlib import suppress

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numcodecs import blosc
from numpy.typing import NDArray

from embedkd.errors import IntegrityError
from embedkd.store.encoding import decode_chunk, encode_chunk, finite_rows, trailer, trailer_of
from embedkd.store.schema import ArraySchema

CAPACITY = 16


def _schema(dtype: str, *dims: int) -> ArraySchema:
    return ArraySchema("teachers/x/cls", dtype, (4 * CAPACITY, *dims), (CAPACITY, *dims))


@st.composite
def chunks(draw: st.DrawFn) -> tuple[ArraySchema, NDArray[np.generic]]:
    """An array of the format and up to a chunk of its rows, any bits."""
    dtype = draw(st.sampled_from(["float16", "float32", "int8", "uint8", "uint16", "int32", "int64", "uint64"]))
    dims = (draw(st.integers(1, 9)),) if dtype.startswith("float") else ()
    rows = draw(st.integers(0, CAPACITY))
    return _schema(dtype, *dims), draw(hnp.arrays(dtype, (rows, *dims)))


@given(chunks())
def test_round_trip_and_padding(chunk: tuple[ArraySchema, NDArray[np.generic]]) -> None:
    schema, rows = chunk
    data = encode_chunk(schema, rows)
    decoded = decode_chunk(schema, data)
    assert decoded.shape == schema.chunk
    assert decoded[: len(rows)].tobytes() == rows.tobytes(), "bit for bit, NaN payloads too"
    np.testing.assert_array_equal(decoded[len(rows) :], np.full_like(decoded[len(rows) :], schema.fill))
    assert encode_chunk(schema, rows) == data
    assert len(data) <= schema.object_limit_bytes


@given(chunks())
def test_bytes_do_not_depend_on_order_or_layout_in_memory(chunk: tuple[ArraySchema, NDArray[np.generic]]) -> None:
    schema, rows = chunk
    data = encode_chunk(schema, rows)
    assert encode_chunk(schema, np.asfortranarray(rows)) == data
    assert encode_chunk(schema, np.repeat(rows, 2, axis=0)[::2]) == data


def test_bytes_do_not_depend_on_threads() -> None:
    """Blosc with threads writes blocks in the order in which they get ready; 2 MB are several blocks."""
    rng = np.random.default_rng(0)
    schema = ArraySchema("a", "float16", (2048, 512), (2048, 512))
    rows = rng.normal(size=schema.chunk).astype(np.float16)
    before = blosc.set_nthreads(8)
    try:
        assert len({encode_chunk(schema, rows) for _ in range(8)}) == 1
    finally:
        blosc.set_nthreads(before)


def test_the_store_alone_turns_threads_off_and_needs_neither_torch_nor_zarr() -> None:
    """In this process zarr has been imported, which turns them off too."""
    code = (
        "import sys, embedkd.store; from numcodecs import blosc; "
        "print(blosc.use_threads, *({'torch', 'zarr', 'webdataset'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((CAPACITY + 1, 4), np.float16),
        np.zeros((3, 5), np.float16),
        np.zeros((3, 4), np.float32),
        np.zeros(3, np.float16),
    ],
)
def test_rows_of_another_shape_or_dtype_are_refused(rows: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match=r"expected float16 up to \(16, 4\)"):
        encode_chunk(_schema("float16", 4), rows)


def _small() -> tuple[ArraySchema, bytes]:
    schema = _schema("float16", 4)
    return schema, encode_chunk(schema, np.random.default_rng(0).normal(size=(9, 4)).astype(np.float16))


def test_every_flipped_bit_is_found() -> None:
    schema, data = _small()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            decode_chunk(schema, bytes(changed))


def test_every_truncation_and_every_tail_is_found() -> None:
    schema, data = _small()
    for length in range(len(data)):
        with pytest.raises(IntegrityError):
            decode_chunk(schema, data[:length])
    for tail in (b"\0", data[-4:], data):
        with pytest.raises(IntegrityError):
            decode_chunk(schema, data + tail)


def _forged(body: bytes) -> bytes:
    """What a stranger would send: any bytes with a checksum that fits."""
    return body + trailer_of(body)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(slice(4, 8), (2**31 - 1).to_bytes(4, "little"), id="nbytes-absurd"),
        pytest.param(slice(4, 8), (0).to_bytes(4, "little"), id="nbytes-zero"),
        pytest.param(slice(12, 16), (2**31 - 1).to_bytes(4, "little"), id="cbytes-beyond-the-end"),
        pytest.param(slice(12, 16), (16).to_bytes(4, "little"), id="cbytes-short"),
        pytest.param(slice(0, 1), b"\x07", id="version"),
        pytest.param(slice(2, 3), b"\x84", id="another-codec"),
        pytest.param(slice(3, 4), b"\x00", id="typesize-zero"),
    ],
)
def test_a_forged_header_is_refused_before_anything_is_decompressed(
    at: slice, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, data = _small()
    body = bytearray(data[:-4])
    body[at] = value
    monkeypatch.setattr(blosc.Blosc, "decode", lambda *_: pytest.fail("decompressed"))
    with pytest.raises(IntegrityError, match="Blosc header"):
        decode_chunk(schema, _forged(bytes(body)))


def test_a_frame_that_blosc_refuses() -> None:
    schema, data = _small()
    body = bytearray(data[:-4])
    body[8:12] = bytes(4)  # blocks of no bytes
    with pytest.raises(IntegrityError, match="no Blosc frame"):
        decode_chunk(schema, _forged(bytes(body)))


@given(st.data())
def test_forged_content_never_gives_anything_but_a_chunk_or_an_error(data: st.DataObject) -> None:
    schema, whole = _small()
    body = bytearray(whole[:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(16, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(IntegrityError):
        assert decode_chunk(schema, _forged(bytes(body))).shape == schema.chunk


def test_the_trailer_tells_objects_apart_and_the_crc_of_a_whole_object_does_not() -> None:
    schema, first = _small()
    second = encode_chunk(schema, np.ones((9, 4), np.float16))
    assert google_crc32c.value(first) == google_crc32c.value(second)
    assert trailer(first) != trailer(second)


@given(
    st.sampled_from(["<f2", ">f2", "<f4", ">f4"]),
    hnp.arrays(np.float32, st.tuples(st.integers(0, 9), st.integers(1, 4))),
)
def test_finite_rows_is_isfinite(dtype: str, rows: NDArray[np.float32]) -> None:
    with np.errstate(over="ignore"):
        stored = rows.astype(dtype)
    np.testing.assert_array_equal(finite_rows(stored), np.isfinite(stored).all(axis=1))
