"""Rows as a store keeps them: encoded in memory too, and decoded one by one, as training needs them.

A slot of 16,384 rows of top-k logits over 21,841 classes has 1 MB as stored and 1.4 GB decoded.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from embedkd.store.encoding import blocks, finite_rows
from embedkd.store.measured import cosine_distances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from embedkd.records import OutputSpec

NO_CODE = -128
NO_INDEX = -1
LOWEST = -65_504.0  # the least log-probability that float16 holds
LEAST_REST = 2.0**-24  # what stays for the values that are not kept, at least
_MOST = 1.01  # probabilities rounded to float16 may add up to a little more than 1
NO_BFLOAT = 0x7FC0
_SHIFTED_INFINITY = 0x7F80 << 1
_LARGEST_SCALE = float(np.finfo(np.float32).max) / 127
_NO_FIT = "does not fit its status"


class Rows(ABC):
    """Rows of one output as they are stored."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def decode(self) -> "NDArray[np.floating[Any]]":
        """All rows: [n, D] in float16 where they are stored so, else float32; NaN where there is none."""

    @abstractmethod
    def take(self, places: "NDArray[np.integer[Any]] | slice") -> Self:
        """Some of the rows, still encoded.

        Args:
            places: int64 [m], or a slice.
        """

    @abstractmethod
    def without(self, lost: "NDArray[np.bool_]") -> Self:
        """The rows, but for those that are lost, which have no values any more.

        Args:
            lost: bool [n].
        """

    @abstractmethod
    def arrays(self) -> "tuple[NDArray[np.generic], ...]":
        """What is stored, in the order of `output_schemas`, without the status."""

    @abstractmethod
    def fault(self, ok: "NDArray[np.bool_]") -> str | None:
        """Why these cannot be rows of which exactly those that are ok have values; None where they can.

        Args:
            ok: bool [n].
        """

    @classmethod
    @abstractmethod
    def joined(cls, parts: "Sequence[Self]") -> Self:
        """The rows of all parts, one behind the other."""

    @property
    def is_storable(self) -> bool:
        """Whether they can be stored as one slot without being encoded again."""
        return True

    def __getitem__(self, row: int) -> "NDArray[np.floating[Any]]":
        """One row, decoded: [D]."""
        return cast("NDArray[np.floating[Any]]", self.take(np.array([row])).decode()[0])

    def distances(self, said: "NDArray[np.float32]") -> "NDArray[np.float64]":
        """What the encoding lost of each row, as 1 - cosine: f64 [n].

        Args:
            said: float32 [n, D], what was encoded; finite, as these rows must be.
        """
        found = np.empty(len(said))
        for part in blocks(*said.shape):
            found[part] = cosine_distances(said[part], self.take(part).decode())
        return found


@dataclass(frozen=True, eq=False)
class FloatRows(Rows):
    """Rows in float16 or float32.

    Attributes:
        values: [n, D].
    """

    values: "NDArray[np.floating[Any]]"

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.values)

    def __getitem__(self, row: int) -> "NDArray[np.floating[Any]]":
        """One row: [D]."""
        return cast("NDArray[np.floating[Any]]", self.values[row])

    def decode(self) -> "NDArray[np.floating[Any]]":
        """See `Rows.decode`; no copy."""
        return self.values

    def take(self, places: "NDArray[np.integer[Any]] | slice") -> Self:
        """See `Rows.take`."""
        return type(self)(self.values[places])

    def without(self, lost: "NDArray[np.bool_]") -> Self:
        """See `Rows.without`."""
        return type(self)(np.where(lost[:, None], self.values.dtype.type(np.nan), self.values))

    def arrays(self) -> "tuple[NDArray[np.generic], ...]":
        """See `Rows.arrays`."""
        return (self.values,)

    def fault(self, ok: "NDArray[np.bool_]") -> str | None:
        """See `Rows.fault`."""
        return None if np.array_equal(finite_rows(self.values), ok) else _NO_FIT

    @classmethod
    def joined(cls, parts: "Sequence[Self]") -> Self:
        """See `Rows.joined`."""
        return cls(np.concatenate([part.values for part in parts]))

    def distances(self, said: "NDArray[np.float32]") -> "NDArray[np.float64]":
        """See `Rows.distances`."""
        if self.values.dtype.itemsize == said.dtype.itemsize:
            return np.zeros(len(said))  # float32 keeps what it is given
        return super().distances(said)


@dataclass(frozen=True, eq=False)
class BfloatRows(Rows):
    """Rows in bfloat16: the upper half of a float32.

    Attributes:
        bits: u16 [n, D].
    """

    bits: "NDArray[np.uint16]"

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.bits)

    def decode(self) -> "NDArray[np.float32]":
        """See `Rows.decode`."""
        whole = np.left_shift(self.bits, 16, dtype=np.uint32)
        return whole.view(np.float32)

    def take(self, places: "NDArray[np.integer[Any]] | slice") -> Self:
        """See `Rows.take`."""
        return type(self)(self.bits[places])

    def without(self, lost: "NDArray[np.bool_]") -> Self:
        """See `Rows.without`."""
        return type(self)(np.where(lost[:, None], np.uint16(NO_BFLOAT), self.bits))

    def arrays(self) -> "tuple[NDArray[np.generic], ...]":
        """See `Rows.arrays`."""
        return (self.bits,)

    def fault(self, ok: "NDArray[np.bool_]") -> str | None:
        """See `Rows.fault`."""
        finite = np.empty(len(self.bits), np.bool_)
        for part in blocks(*self.bits.shape):
            finite[part] = (self.bits[part] << np.uint16(1)).max(axis=1, initial=0) < _SHIFTED_INFINITY  # no sign
        return None if np.array_equal(finite, ok) else _NO_FIT

    @classmethod
    def joined(cls, parts: "Sequence[Self]") -> Self:
        """See `Rows.joined`."""
        return cls(np.concatenate([part.bits for part in parts]))


@dataclass(frozen=True, eq=False)
class Int8Rows(Rows):
    """Rows of whole numbers from -127 to 127, times a scale a dimension.

    Attributes:
        codes: i8 [n, D], NO_CODE where there is no row.
        scale: f32 [m, D]; one a slot that rows come from.
        origin: int64 [n], which scale each row has.
    """

    codes: "NDArray[np.int8]"
    scale: "NDArray[np.float32]"
    origin: "NDArray[np.int64]"

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.codes)

    def decode(self) -> "NDArray[np.float32]":
        """See `Rows.decode`."""
        scale = self.scale if len(self.scale) == 1 else self.scale[self.origin]
        values = np.multiply(self.codes, scale, dtype=np.float32)
        values[self.codes[:, 0] == NO_CODE] = np.nan
        return values

    def take(self, places: "NDArray[np.integer[Any]] | slice") -> Self:
        """See `Rows.take`."""
        return type(self)(self.codes[places], self.scale, self.origin[places])

    def without(self, lost: "NDArray[np.bool_]") -> Self:
        """See `Rows.without`."""
        return type(self)(np.where(lost[:, None], np.int8(NO_CODE), self.codes), self.scale, self.origin)

    @property
    def is_storable(self) -> bool:
        """See `Rows.is_storable`; a slot has one scale."""
        return len(np.unique(self.origin)) <= 1

    def arrays(self) -> "tuple[NDArray[np.generic], ...]":
        """See `Rows.arrays`."""
        first = int(self.origin[0]) if len(self.origin) else 0
        return self.scale[first : first + 1], self.codes

    def fault(self, ok: "NDArray[np.bool_]") -> str | None:
        """See `Rows.fault`."""
        if not ((self.scale >= 0) & (self.scale <= _LARGEST_SCALE)).all():
            return "has a scale that is negative, not finite, or too large"
        for part in blocks(*self.codes.shape):
            missing = self.codes[part] == NO_CODE
            if not (missing == ~ok[part, None]).all():
                return _NO_FIT
        return None

    @classmethod
    def joined(cls, parts: "Sequence[Self]") -> Self:
        """See `Rows.joined`."""
        first = np.cumsum([0, *(len(part.scale) for part in parts[:-1])])
        return cls(
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.scale for part in parts]),
            np.concatenate([part.origin + at for part, at in zip(parts, first, strict=True)]),
        )


@dataclass(frozen=True, eq=False)
class TopRows(Rows):
    """The natural logarithms of the K largest probabilities of each row of logits.

    Attributes:
        index: i32 [n, K], which they are; NO_INDEX where there is no row.
        value: f16 [n, K], falling.
        dim: D.
    """

    index: "NDArray[np.int32]"
    value: "NDArray[np.float16]"
    dim: int

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)

    def __getitem__(self, row: int) -> "NDArray[np.floating[Any]]":
        """One row, decoded: [D]."""
        if self.index[row, 0] == NO_INDEX:
            return np.full(self.dim, np.nan, np.float32)
        values = np.full(self.dim, self.take(np.array([row]))._rest()[0], np.float32)
        values[self.index[row]] = self.value[row]
        return values

    def decode(self) -> "NDArray[np.float32]":
        """See `Rows.decode`; what the others share is spread evenly over them."""
        rows = np.repeat(self._rest()[:, None].astype(np.float32), self.dim, axis=1)
        np.put_along_axis(rows, self.index.astype(np.int64), self.value.astype(np.float32), axis=1)
        rows[self.index[:, 0] == NO_INDEX] = np.nan
        return rows

    def take(self, places: "NDArray[np.integer[Any]] | slice") -> Self:
        """See `Rows.take`."""
        return type(self)(self.index[places], self.value[places], self.dim)

    def without(self, lost: "NDArray[np.bool_]") -> Self:
        """See `Rows.without`."""
        index = np.where(lost[:, None], np.int32(NO_INDEX), self.index)
        return type(self)(index, np.where(lost[:, None], np.float16(np.nan), self.value), self.dim)

    def arrays(self) -> "tuple[NDArray[np.generic], ...]":
        """See `Rows.arrays`."""
        return self.index, self.value

    def fault(self, ok: "NDArray[np.bool_]") -> str | None:
        """See `Rows.fault`."""
        lost = np.isnan(self.value).all(axis=1) & (self.index == NO_INDEX).all(axis=1)
        if not np.array_equal(lost, ~ok):
            return _NO_FIT
        index, value = np.sort(self.index[ok], axis=1), self.value[ok].astype(np.float64)
        if ((index < 0) | (index >= self.dim)).any() or (index[:, 1:] == index[:, :-1]).any():
            return f"has an index that is not from 0 to {self.dim - 1}, or comes twice in a row"
        fits = np.isfinite(value).all() and (value <= 0).all() and (value[:, 1:] <= value[:, :-1]).all()
        if not fits or (np.exp(value).sum(axis=1) > _MOST).any():
            return "has log-probabilities above 0, not falling, or of more than 1 in all"
        return None

    @classmethod
    def joined(cls, parts: "Sequence[Self]") -> Self:
        """See `Rows.joined`."""
        index, value = (np.concatenate([getattr(part, name) for part in parts]) for name in ("index", "value"))
        return cls(index, value, parts[0].dim)

    def distances(self, said: "NDArray[np.float32]") -> "NDArray[np.float64]":
        """See `Rows.distances`; between probabilities, as logits may be shifted."""
        found = np.empty(len(said))
        for part in blocks(*said.shape):
            found[part] = self.take(part).distances_to(probabilities(said[part]))
        return found

    def distances_to(self, whole: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """1 - cosine of the probabilities of each row to those that were encoded: f64 [n].

        Args:
            whole: f64 [n, D].
        """
        largest = np.take_along_axis(whole, self.index.astype(np.int64), axis=1)
        stored, other = np.exp(self.value.astype(np.float64)), np.exp(self._rest())
        along = (largest * stored).sum(axis=1) + other * (1 - largest.sum(axis=1))
        length = np.sqrt((stored**2).sum(axis=1) + (self.dim - stored.shape[1]) * other**2)
        distances: NDArray[np.float64] = 1 - along / (length * np.sqrt(np.einsum("ij,ij->i", whole, whole)))
        return np.clip(distances, 0.0, None)

    def _rest(self) -> "NDArray[np.float64]":
        """Logarithm of the probability of each value that is not kept: f64 [n]."""
        value = self.value.astype(np.float64)
        rest = np.maximum(1 - np.exp(value).sum(axis=1), LEAST_REST) / (self.dim - value.shape[1])
        return cast("NDArray[np.float64]", np.minimum(np.log(rest), value[:, -1]))


def rows_of(output: "OutputSpec", chunks: "Sequence[NDArray[np.generic]]", rows: int) -> Rows:
    """The rows of one slot.

    Args:
        output: What they are of.
        chunks: The arrays of the slot in the order of `output_schemas`, without the status, padding included.
        rows: Samples of the slot.
    """
    first = chunks[0][:rows]
    if output.top is not None:
        return TopRows(first.astype(np.int32), chunks[1][:rows].astype(np.float16), output.dim)
    if output.encoding == "int8":
        return Int8Rows(chunks[1][:rows].astype(np.int8), chunks[0].astype(np.float32), np.zeros(rows, np.int64))
    if output.encoding == "bfloat16":
        return BfloatRows(first.astype(np.uint16))
    return FloatRows(cast("NDArray[np.floating[Any]]", first))


def probabilities(logits: "NDArray[np.floating[Any]]") -> "NDArray[np.float64]":
    """Softmax of rows, f64 [n, D]."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=1, keepdims=True)
    return values


def comparable(rows: Rows, other: Rows) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Two sets of rows in the form in which their cosines mean something: as probabilities where one is top-k."""
    pair = rows.decode(), other.decode()
    if isinstance(rows, TopRows) or isinstance(other, TopRows):
        return probabilities(pair[0]), probabilities(pair[1])
    return pair[0].astype(np.float64), pair[1].astype(np.float64)
