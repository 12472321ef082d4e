"""Rows <-> the bytes of one chunk: bytes(little), Blosc(lz4, bitshuffle), crc32c, padded to the slot's capacity.

The bytes are made here and put whole: twice as fast as zarr's ``__setitem__``, with a checksum that can be recorded and
a put that can be conditional. zarr-python and tensorstore read them with their stock codecs.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs import blosc

from embedkd.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from embedkd.store.schema import ArraySchema

CRC_BYTES = 4
HEADER_BYTES = 16  # of a Blosc frame; also the most that a frame is longer than its content
_FRAME_VERSION = 2
_LZ4 = 1
_SHIFTED_INFINITY = 0x7C00 << 1
_BLOCK_VALUES = 1 << 16

# With more than one thread Blosc puts blocks in the order in which they get ready: other bytes every time. zarr turns
# its threads off for the whole process too.
blosc.use_threads = False


def encode_chunk(schema: "ArraySchema", rows: "NDArray[np.generic]") -> bytes:
    """The object of one chunk.

    Args:
        schema: The array.
        rows: [n, ...] with n up to the chunk's length, in the array's dtype; the rest is filled.

    Raises:
        ValueError: Shape or dtype do not fit the array.
    """
    dtype = np.dtype(schema.dtype)
    if rows.dtype != dtype or rows.shape[1:] != schema.chunk[1:] or rows.shape[0] > schema.chunk[0]:
        raise ValueError(f"{schema.path}: expected {dtype} up to {schema.chunk}, got {rows.dtype} {rows.shape}")
    if len(rows) == schema.chunk[0]:
        chunk = np.ascontiguousarray(rows, dtype.newbyteorder("<"))
    else:
        chunk = np.empty(schema.chunk, dtype.newbyteorder("<"))
        chunk[: len(rows)] = rows
        chunk[len(rows) :] = schema.fill
    codec = blosc.Blosc(cname="lz4", clevel=5, shuffle=blosc.BITSHUFFLE, blocksize=0, typesize=dtype.itemsize)
    body = bytes(codec.encode(chunk.view(np.uint8)))
    return b"".join((body, trailer_of(body)))


def decode_chunk(schema: "ArraySchema", data: bytes) -> "NDArray[np.generic]":
    """The rows of one object, padding included.

    Returns:
        A read-only array of the chunk's shape and dtype.

    Raises:
        IntegrityError: The checksum, the frame or a length is wrong.
    """
    body = np.frombuffer(data, np.uint8)[:-CRC_BYTES]  # not a memoryview: google_crc32c takes none
    if len(data) < HEADER_BYTES + CRC_BYTES or google_crc32c.value(body) != trailer(data):
        raise IntegrityError(f"{schema.path}: a chunk's crc32c does not fit its bytes")
    _check_frame(schema, body)
    chunk = np.empty(schema.chunk, np.dtype(schema.dtype).newbyteorder("<"))  # not bytes: numpy keeps memory at hand
    try:
        blosc.Blosc().decode(body, out=chunk)
    except (RuntimeError, ValueError) as error:
        raise IntegrityError(f"{schema.path}: a chunk is no Blosc frame: {error}") from error
    chunk.flags.writeable = False
    return chunk


def _check_frame(schema: "ArraySchema", body: "NDArray[np.uint8]") -> None:
    """Check what Blosc would believe: how much to allocate, how far to read, what to call.

    Raises:
        IntegrityError: The header is not that of this array's chunks; nothing was decompressed.
    """
    version, _, flags, typesize = body[:4].tolist()
    nbytes, _, cbytes = body[4:HEADER_BYTES].view("<u4").tolist()
    came = (version, flags >> 5, typesize, nbytes, cbytes)
    expected = (_FRAME_VERSION, _LZ4, np.dtype(schema.dtype).itemsize, schema.chunk_bytes, len(body))
    if came != expected:
        raise IntegrityError(f"{schema.path}: a chunk's Blosc header says {came}, expected {expected}")


def trailer_of(body: bytes) -> bytes:
    """The crc32c of a body as the codec appends it: four bytes, little-endian."""
    return int(google_crc32c.value(body)).to_bytes(CRC_BYTES, "little")


def trailer(data: bytes) -> int:
    """The crc32c that an object ends in.

    The crc32c over a whole object, its own crc32c included, is a constant; the trailer is what tells objects apart.
    """
    return int.from_bytes(data[-CRC_BYTES:], "little")


def finite_rows(rows: "NDArray[np.floating[Any]]") -> "NDArray[np.bool_]":
    """Whether all values of a row are finite: bool [n] for [n, D]."""
    found = np.empty(len(rows), np.bool_)
    # float16 as whole numbers, four times as fast: shifted left, the sign is gone and infinity is the least not finite.
    bits = rows.view(rows.dtype.str.replace("f", "u")) if rows.dtype.itemsize == 2 else None
    for part in blocks(*rows.shape):
        if bits is None:
            found[part] = np.isfinite(rows[part]).all(axis=1)
        else:
            found[part] = (bits[part] << 1).max(axis=1, initial=0) < _SHIFTED_INFINITY
    return found


def blocks(rows: int, width: int) -> "Iterator[slice]":
    """All rows, so many at a time that their values and a copy or two stay in a processor's cache."""
    step = max(1, _BLOCK_VALUES // width)
    for first, last in pairwise([*range(0, rows, step), rows]):
        yield slice(first, last)
