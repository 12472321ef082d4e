"""How much an encoding lost: 1 - cosine between what the teacher said and what a reader gets back, row by row."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import FormatError
from embedkd.store.documents import pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from embedkd.store.documents import Fields

# Errors from one edge up to the next are counted together: below 1e-9, then a bin a decade, then 1 and more.
EDGES = tuple(10.0**power for power in range(-9, 1))
BINS = len(EDGES) + 1
LARGEST = 2.0
_DIGITS = 3
_LEAST_SQUARE, _LARGEST_SQUARE = 1e-30, 1e30  # float32 cannot hold what comes of squares outside


@dataclass(frozen=True)
class MeasuredError:
    """What was lost of some rows.

    Attributes:
        mean: Of 1 - cosine; 0.0 without rows, like `max`.
        max: The largest.
        histogram: Rows in each bin between EDGES; they add up to all rows.
    """

    mean: float
    max: float
    histogram: tuple[int, ...]

    @property
    def rows(self) -> int:
        """How many rows were measured."""
        return sum(self.histogram)

    @classmethod
    def of(cls, distances: "NDArray[np.float64]") -> "MeasuredError":
        """The error of rows.

        Args:
            distances: f64 [n], from 0 to 2.
        """
        if not len(distances):
            return cls(0.0, 0.0, (0,) * BINS)
        counts = np.bincount(np.digitize(distances, EDGES), minlength=BINS)
        return cls(_rounded(float(distances.mean())), _rounded(float(distances.max())), tuple(counts.tolist()))

    @classmethod
    def joined(cls, parts: "Iterable[MeasuredError]") -> "MeasuredError":
        """The error of the rows of all parts together."""
        known = [part for part in parts if part.rows]
        counts = tuple(sum(column) for column in zip((0,) * BINS, *(part.histogram for part in known), strict=True))
        if not known:
            return cls(0.0, 0.0, counts)
        mean = math.fsum(part.mean * part.rows for part in known) / sum(counts)
        return cls(_rounded(mean), max(part.max for part in known), counts)

    def of_some(self, rows: int) -> "MeasuredError":
        """At most the error of this many of the rows, whichever they are: taken are those with the largest errors.

        Args:
            rows: Up to all of them.
        """
        if rows == self.rows:
            return self
        left, counts = rows, []
        for count in reversed(self.histogram):
            counts.append(min(count, left))
            left -= counts[-1]
        mean = min(self.mean * self.rows / rows, self.max) if rows else 0.0
        return MeasuredError(_rounded(mean), self.max if rows else 0.0, tuple(reversed(counts)))

    def followed_by(self, distances: "NDArray[np.float64]") -> "MeasuredError":
        """At most the error of rows that were encoded once more, after they had lost this much.

        Half the angle between two rows has the sine sqrt((1 - cosine) / 2), and angles add up at worst.

        Args:
            distances: f64 [n], what the second time lost of each of these rows.
        """
        if not len(distances):
            return self
        worst = np.minimum((math.sqrt(self.max) + np.sqrt(distances)) ** 2, LARGEST)
        mean = min((math.sqrt(self.mean) + math.sqrt(float(distances.mean()))) ** 2, LARGEST)
        most = MeasuredError.of(worst)
        return MeasuredError(_rounded(mean), most.max, most.histogram)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"mean": self.mean, "max": self.max, "histogram": list(self.histogram)}

    @classmethod
    def from_json(cls, entry: "Fields") -> "MeasuredError":
        """The inverse of `to_json`.

        Raises:
            FormatError: A number is missing, of another type, or no error of rows.
        """
        made = cls(_error(entry, "mean"), _error(entry, "max"), entry.numbers("histogram", BINS))
        if len(made.histogram) != BINS or made.mean > made.max:
            raise FormatError(f"{entry.where}: expected a mean up to the maximum, and {BINS} counts")
        return made


@dataclass(frozen=True)
class ErrorColumns:
    """The errors of one output in n slots.

    Attributes:
        mean: f64 [n].
        max: f64 [n].
        histogram: u16 [n, BINS].
    """

    mean: "NDArray[np.float64]"
    max: "NDArray[np.float64]"
    histogram: "NDArray[np.uint16]"

    @classmethod
    def of(cls, errors: "Iterable[MeasuredError]") -> "ErrorColumns":
        """Columns of these errors, one a slot."""
        known = list(errors)
        return cls(
            np.array([error.mean for error in known], np.float64),
            np.array([error.max for error in known], np.float64),
            np.array([error.histogram for error in known], np.uint16).reshape(-1, BINS),
        )

    def __len__(self) -> int:
        """Number of slots."""
        return len(self.mean)

    def at(self, place: int) -> MeasuredError:
        """The error of one slot."""
        return MeasuredError(
            float(self.mean[place]), float(self.max[place]), tuple(self.histogram[place].astype(int).tolist())
        )

    def joined(self) -> MeasuredError:
        """The error of all slots together."""
        rows = self.histogram.sum(axis=1, dtype=np.int64)
        total = int(rows.sum())
        mean = math.fsum((self.mean * rows).tolist()) / total if total else 0.0
        counts = tuple(self.histogram.sum(axis=0, dtype=np.int64).tolist())
        return MeasuredError(_rounded(mean), float(self.max.max(initial=0.0)), counts)

    def take(self, places: "NDArray[np.integer[Any]]") -> "ErrorColumns":
        """Those of some of the slots."""
        return ErrorColumns(self.mean[places], self.max[places], self.histogram[places])

    @classmethod
    def stacked(cls, parts: "Sequence[ErrorColumns]") -> "ErrorColumns":
        """All of all parts, one behind the other."""
        return cls(
            np.concatenate([part.mean for part in parts]),
            np.concatenate([part.max for part in parts]),
            np.concatenate([part.histogram for part in parts]),
        )

    def to_json(self) -> dict[str, str]:
        """As JSON values."""
        return {"mean": pack(self.mean), "max": pack(self.max), "histogram": pack(self.histogram)}

    @classmethod
    def from_json(cls, entry: "Fields", slots: int) -> "ErrorColumns":
        """The inverse of `to_json`.

        Raises:
            FormatError: A column is missing, of another length, or holds what is no error of rows.
        """
        mean, most = entry.packed("mean", "<f8", slots), entry.packed("max", "<f8", slots)
        if not ((mean >= 0) & (mean <= most) & (most <= LARGEST)).all():
            raise FormatError(f"{entry.where}: expected means from 0 up to maxima up to {LARGEST}")
        return cls(mean, most, entry.packed("histogram", "<u2", slots, BINS))


def cosine_distances(said: "NDArray[np.float32]", kept: "NDArray[np.floating[Any]]") -> "NDArray[np.float64]":
    """1 - cosine of rows, exact also where it is much smaller than what float32 can tell from 1.

    With d = kept - said it is (d.d - (|kept| - |said|)^2) / (2 |said| |kept|), in which nothing large cancels.

    Args:
        said: float32 [n, D].
        kept: [n, D].

    Returns:
        f64 [n], from 0 to 2: 0 for equal rows, 1 where only one of them has a length, NaN where a value is not finite.
    """
    with np.errstate(all="ignore"):
        change = kept.astype(np.float32)  # numpy subtracts float16 from float32 ten times as slowly
        change -= said
        found, fits = _distances(said, change)
    odd = np.flatnonzero(~fits)
    if len(odd):
        exact = said[odd].astype(np.float64)
        largest = np.maximum(np.abs(exact).max(axis=1, initial=0, keepdims=True), 1e-300)
        with np.errstate(all="ignore"):
            found[odd] = _distances(exact / largest, (kept[odd].astype(np.float64) - exact) / largest)[0]
    return np.clip(found, 0.0, LARGEST)


def _distances(
    said: "NDArray[np.floating[Any]]", change: "NDArray[np.floating[Any]]"
) -> "tuple[NDArray[np.float64], NDArray[np.bool_]]":
    """1 - cosine, and whether its sums were neither too large nor too small for their data type."""
    square, along, moved = (
        np.einsum("ij,ij->i", a, b).astype(np.float64) for a, b in ((said, said), (said, change), (change, change))
    )
    fits = (square > _LEAST_SQUARE) & (square < _LARGEST_SQUARE) & (moved < _LARGEST_SQUARE)
    longer = np.maximum(2 * along + moved, -square)  # of the squared length
    lengths = np.sqrt(square), np.sqrt(square + longer)
    found = (moved - (longer / (lengths[0] + lengths[1])) ** 2) / (2 * lengths[0] * lengths[1])
    found[(lengths[0] == 0) != (lengths[1] == 0)] = 1.0
    found[moved == 0] = 0.0
    return found, fits


def _rounded(value: float) -> float:
    """To a few digits: the last ones depend on how a processor sums."""
    return float(f"{value:.{_DIGITS}g}")


def _error(entry: "Fields", name: str) -> float:
    value = entry.real(name)
    if type(value) is not float or not 0 <= value <= LARGEST:
        raise entry.unexpected(f"{name} to be a number with a point from 0 to {LARGEST}", value)
    return value
