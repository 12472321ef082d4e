"""From what a teacher said, in float32, to rows in an output's encoding, with the error that this makes.

A slot does not fit into a processor's cache, and the first touch of fresh memory costs more than the arithmetic: so
everything is done block by block, in several threads, and nothing as large as the slot is made but the codes.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.records import RowStatus
from embedkd.store.encoding import blocks
from embedkd.store.measured import MeasuredError, cosine_distances
from embedkd.store.rows import (
    LOWEST,
    NO_BFLOAT,
    NO_CODE,
    NO_INDEX,
    BfloatRows,
    FloatRows,
    Int8Rows,
    Rows,
    TopRows,
    probabilities,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from embedkd.records import OutputSpec

    Floats = NDArray[np.float32]
    Codes = NDArray[Any]

_LARGEST_CODE = 127
_LEAST_SCALE = float(np.finfo(np.float32).tiny)
_ALMOST_HALF = np.uint32(0x7FFF)
# Values of at least this size become infinite, or are too large for a scale; anything finite fits elsewhere.
_TOO_LARGE = {"float16": 65_520.0, "bfloat16": float.fromhex("0x1.ffp+127"), "int8": float.fromhex("0x1p+127")}
_MAX_THREADS = 4
_BLOCKS_A_THREAD = 4  # fewer are done before a thread is there


@dataclass(frozen=True)
class Encoded:
    """Rows of one slot and one output, ready to be stored.

    Attributes:
        rows: As a reader will get them.
        status: u8 [n], where NON_FINITE replaced OK for rows that the encoding cannot hold.
        error: What the encoding lost of the rows that are OK.
    """

    rows: Rows
    status: "NDArray[np.uint8]"
    error: MeasuredError


def encode(
    output: "OutputSpec", said: "Floats", status: "NDArray[np.uint8]", *, lead: "NDArray[np.generic] | None" = None
) -> Encoded:
    """Encode the rows of one slot.

    Args:
        output: What they are of.
        said: float32 [n, D].
        status: u8 [n]: OK, or why a row could not be had.
        lead: The scale [1, D] of int8, or the index [n, K] of top-k, that another writer stored already.
    """
    known = np.where((status == RowStatus.OK) & ~holds(output, said), RowStatus.NON_FINITE, status).astype(np.uint8)
    ok = known == RowStatus.OK
    distances = np.zeros(len(said))
    rows = _top(output.top, said, ok, lead, distances) if output.top else _dense(output, said, ok, lead, distances)
    return Encoded(rows, known, MeasuredError.of(distances[ok]))


def holds(output: "OutputSpec", said: "Floats") -> "NDArray[np.bool_]":
    """Whether an output can keep a row: all values are finite, and none is too large for its encoding; bool [n]."""
    limit = _TOO_LARGE.get(output.encoding, np.inf)
    found = np.empty(len(said), np.bool_)

    def look(part: slice) -> None:
        block = said[part]
        found[part] = np.maximum(block.max(axis=1), -block.min(axis=1)) < limit  # NaN is not

    _in_blocks(look, *said.shape)
    return found


def can_lead(output: "OutputSpec", lead: "NDArray[np.generic]", ok: "NDArray[np.bool_]") -> bool:
    """Whether rows of which these are ok can be encoded by this scale or index, whoever made it.

    Args:
        output: What the rows are of, in int8 or top-k.
        lead: The whole chunk: scale [1, D], or index [capacity, K].
        ok: bool [n].
    """
    if output.top is None:
        nothing = np.zeros((0, output.dim), np.int8)
        return Int8Rows(nothing, lead.astype(np.float32), np.zeros(0, np.int64)).fault(ok[:0]) is None
    index = lead[: len(ok)].astype(np.int64)
    return bool(((index[ok] >= 0) & (index[ok] < output.dim)).all() and (index[~ok] == NO_INDEX).all())


@dataclass(frozen=True)
class _Coder:
    """One encoding that keeps every value.

    Attributes:
        dtype: Of the codes.
        absent: The code of a row that is not there.
        code: Writes the codes of a block of values, float32 [b, D], into the second array.
        rows: Makes rows of codes.
    """

    dtype: str
    absent: float
    code: "Callable[[Floats, Codes], None]"
    rows: "Callable[[Codes], Rows]"


def _dense(
    output: "OutputSpec",
    said: "Floats",
    ok: "NDArray[np.bool_]",
    lead: "NDArray[np.generic] | None",
    distances: "NDArray[np.float64]",
) -> Rows:
    """Rows of which every value is kept; what was lost of them is put into ``distances``."""
    coder = _coder(output, said, ok, lead)
    codes = np.empty(said.shape, coder.dtype)
    exact = codes.dtype == said.dtype

    def work(part: slice) -> None:
        coder.code(said[part], codes[part])
        if not exact:
            distances[part] = cosine_distances(said[part], coder.rows(codes[part]).decode())

    _in_blocks(work, *said.shape)
    if not ok.all():
        codes[~ok] = coder.absent
    return coder.rows(codes)


def _coder(output: "OutputSpec", said: "Floats", ok: "NDArray[np.bool_]", lead: "NDArray[np.generic] | None") -> _Coder:
    if output.encoding == "bfloat16":
        return _Coder("uint16", NO_BFLOAT, _to_bfloat16, BfloatRows)
    if output.encoding != "int8":
        return _Coder(output.encoding, np.nan, _to_float, FloatRows)
    scale = _scale(said, ok) if lead is None else lead.astype(np.float32)
    steps = np.where(scale > 0, scale, np.float32(np.inf))

    def code(block: "Floats", codes: "Codes") -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # of rows that are not ok
            values = block / steps
            np.clip(np.rint(values, out=values), -_LARGEST_CODE, _LARGEST_CODE, out=values)
            codes[...] = values

    def rows(codes: "Codes") -> Rows:
        return Int8Rows(codes, scale, np.zeros(len(codes), np.int64))

    return _Coder("int8", NO_CODE, code, rows)


def _to_float(block: "Floats", codes: "Codes") -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # of rows that are not ok
        codes[...] = block


def _to_bfloat16(block: "Floats", codes: "Codes") -> None:
    """The upper halves, rounded to the nearest, to even ones where two are as near."""
    bits = np.ascontiguousarray(block).view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += _ALMOST_HALF
    rounded += bits  # may wrap around in NaN, which nobody keeps
    rounded >>= np.uint32(16)
    codes[...] = rounded


def _scale(said: "Floats", ok: "NDArray[np.bool_]") -> "Floats":
    """The largest value of each dimension over 127: float32 [1, D]."""
    largest = np.zeros(said.shape[1], np.float32)
    for part in blocks(*said.shape):
        block = said[part] if ok[part].all() else said[part][ok[part]]
        np.maximum(largest, block.max(axis=0, initial=0), out=largest)
        np.maximum(largest, -block.min(axis=0, initial=0), out=largest)
    scale = largest[None] / np.float32(_LARGEST_CODE)
    scale[scale < _LEAST_SCALE] = 0  # what lies below has no digits left to divide by
    return scale


def _top(
    count: int,
    said: "Floats",
    ok: "NDArray[np.bool_]",
    lead: "NDArray[np.generic] | None",
    distances: "NDArray[np.float64]",
) -> Rows:
    """The largest logits of each row as logarithms of probabilities; what was lost is put into ``distances``."""
    made = TopRows(
        np.full((len(said), count), NO_INDEX, np.int32), np.full((len(said), count), np.nan, np.float16), said.shape[1]
    )
    places = np.flatnonzero(ok)

    def work(part: slice) -> None:
        rows = places[part]
        logits = said[rows]
        chosen = _largest(logits, count) if lead is None else lead[rows].astype(np.int64)
        whole = probabilities(logits)
        shifted = np.take_along_axis(logits, chosen, axis=1) - logits.max(axis=1, keepdims=True).astype(np.float64)
        # The largest probability is 1 over the sum of all exponentials of such differences.
        kept = np.minimum.accumulate(shifted + np.log(whole.max(axis=1, keepdims=True)), axis=1)
        made.index[rows], made.value[rows] = chosen, np.clip(kept, LOWEST, 0)
        distances[rows] = made.take(rows).distances_to(whole)

    _in_blocks(work, len(places), said.shape[1])
    return made


def _largest(logits: "Floats", count: int) -> "NDArray[np.int64]":
    """Places of the largest values of each row, falling, of equal ones the first; int64 [n, count]."""
    chosen = np.sort(np.argpartition(-logits, count - 1, axis=1)[:, :count], axis=1)
    values = np.take_along_axis(logits, chosen, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    chosen = np.take_along_axis(chosen, order, axis=1)
    tied = np.flatnonzero((logits >= values.min(axis=1, keepdims=True)).sum(axis=1) > count)
    chosen[tied] = np.argsort(-logits[tied], axis=1, kind="stable")[:, :count]
    return chosen


def _in_blocks(work: "Callable[[slice], None]", rows: int, width: int) -> None:
    """Do some work for all rows, block by block; numpy lets other threads run while it computes."""
    parts = list(blocks(rows, width))
    threads = min(_MAX_THREADS, _usable_cpus(), len(parts) // _BLOCKS_A_THREAD)
    if threads < 2:
        for part in parts:
            work(part)
        return

    def share(first: int) -> None:
        for part in parts[first::threads]:
            work(part)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
