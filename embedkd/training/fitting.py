"""What is fitted to the stored rows of the training samples before a run: moments of rows, temperatures of logits.

Samples that are held out for validation take no part.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from embedkd.errors import TrainingError
from embedkd.losses import fitted_temperature
from embedkd.store.ahead import read_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from embedkd.join import Samples
    from embedkd.store import Rows
    from embedkd.training.targets import TermTargets
    from embedkd.training.terms import Term

_FIT_ROWS, _FIT_NUMBERS, _FIT_SLOTS = 4096, 1 << 24, 16  # a temperature is one number: more rows change little
_BLOCK_NUMBERS = 1 << 22  # decoded at once
_LEAST_DEVIATION: Final = 1e-6  # of the largest one; below it a dimension is the same for all samples


def fit_targets(
    targets: "Mapping[str, TermTargets]", terms: "Sequence[Term]", train: "Samples"
) -> "dict[str, TermTargets]":
    """The targets with all that is fitted to rows; reads each slot once, or none where nothing is fitted.

    Args:
        targets: What each loss compares with, by its name.
        terms: The losses.
        train: The training samples, joined with the rows of the targets.

    Raises:
        TrainingError: There is no labelled row to fit a temperature on.
        StoreError: The rows cannot be trusted.
    """
    compared = {term.name: term.compares for term in terms if term.name in targets}
    wanted = {name: next(iter(targets[name].shares)) for name, one in compared.items() if one.standardise}
    moments = measure_moments(train, sorted(set(wanted.values()))) if wanted else {}
    fitted = dict(targets)
    for name, one in compared.items():
        if one.standardise:
            fitted[name] = moments[wanted[name]].standardised(targets[name])
        if one.fitted:
            temperature = _fit_temperature(train, next(iter(targets[name].shares)), targets[name].dim)
            fitted[name] = replace(fitted[name], options={**targets[name].options, "temperature": temperature})
    return fitted


@dataclass
class Moments:
    """Mean and variance of each dimension, gathered part by part.

    Attributes:
        rows: How many there were.
        mean: float64 [D].
        squares: float64 [D], sum of the squared differences from the mean.
    """

    rows: int
    mean: "NDArray[np.float64]"
    squares: "NDArray[np.float64]"

    @classmethod
    def of(cls, rows: "NDArray[np.float64]") -> "Moments":
        """Of rows [n, D], at least one."""
        mean = rows.mean(axis=0)
        return cls(len(rows), mean, np.square(rows - mean).sum(axis=0))

    def with_more(self, other: "Moments") -> "Moments":
        """Of both together (Chan, Golub and LeVeque 1979): no sum of squares that cancels."""
        rows, step = self.rows + other.rows, other.mean - self.mean
        squares = self.squares + other.squares + np.square(step) * (self.rows * other.rows / rows)
        return Moments(rows, self.mean + step * (other.rows / rows), squares)

    def standardised(self, targets: "TermTargets") -> "TermTargets":
        """Targets whose rows and classes have mean 0 and standard deviation 1; 0 where a dimension never changes."""
        deviation = np.sqrt(self.squares / self.rows)
        fixed = deviation <= _LEAST_DEVIATION * deviation.max(initial=0.0)
        inverse = np.where(fixed, 0.0, 1.0 / np.where(fixed, 1.0, deviation))
        centre, scale = torch.from_numpy(self.mean).float(), torch.from_numpy(inverse).float()
        classes = None if targets.classes is None else (targets.classes - centre) * scale
        return replace(targets, centre=centre, scale=scale, classes=classes)


def measure_moments(train: "Samples", names: "Sequence[str]") -> dict[str, Moments]:
    """Moments of the rows of targets over the training samples; of stored views, of those of the first.

    The same numbers for any machine that adds alike: slots, and blocks of rows in them, come in their order.

    Args:
        train: The training samples.
        names: Of the targets.

    Raises:
        TrainingError: There is no row.
        StoreError: The rows cannot be trusted.
    """
    found: dict[str, Moments] = {}
    for slot in _read_slots(train, range(len(train.slots))):
        for name in names:
            for rows in _blocks(slot.rows[name], slot.numbers):
                part = Moments.of(rows.astype(np.float64))
                found[name] = found[name].with_more(part) if name in found else part
    missing = [name for name in names if name not in found]
    if missing:
        raise TrainingError(f"expected training rows to standardise {missing[0]} by, got none")
    return found


@dataclass(frozen=True)
class _SlotRows:
    """Rows of one slot: numbers int64 [m] tell which of the stored ones take part, labels i32 [m] are theirs."""

    rows: "Mapping[str, Rows]"
    numbers: "NDArray[np.int64]"
    labels: "NDArray[np.int32]"


def _read_slots(train: "Samples", places: "Sequence[int]") -> "Iterator[_SlotRows]":
    """Slots in order; the next one is read meanwhile."""
    joiner = train.joiner()
    assert joiner is not None, "only stored rows are fitted to"
    for at, read in zip(places, read_ahead(lambda at: joiner.read(train.slots[at]), places), strict=True):
        numbers = train.ordinals(at, read.ordinals)
        yield _SlotRows(read.rows, numbers, read.labels[numbers])


def _blocks(rows: "Rows", numbers: "NDArray[np.int64]") -> "Iterator[NDArray[np.floating[Any]]]":
    """Rows [n, D] decoded, so many at once that memory stays bounded."""
    if not len(numbers):
        return
    size = max(1, _BLOCK_NUMBERS // rows[int(numbers[0])].size)
    for first in range(0, len(numbers), size):
        yield rows.take(numbers[first : first + size]).decode()


def _fit_temperature(train: "Samples", name: str, dim: int) -> float:
    """On rows spread evenly over the training samples."""
    places = range(len(train.slots))[:: -(-len(train.slots) // _FIT_SLOTS) or 1]
    share = -(-min(_FIT_ROWS, _FIT_NUMBERS // dim) // max(len(places), 1))
    logits, labels = [], []
    for slot in _read_slots(train, places):
        usable = np.flatnonzero(slot.labels >= 0)
        chosen = usable[:: -(-len(usable) // share) or 1]
        logits.append(slot.rows[name].take(slot.numbers[chosen]).decode().astype(np.float32))
        labels.append(slot.labels[chosen].astype(np.int64))
    if not sum(map(len, labels)):
        raise TrainingError(
            f"{train.store} has no labelled training row to fit a temperature on; "
            "give loss_options a temperature in place of fitted"
        )
    return fitted_temperature(torch.from_numpy(np.concatenate(logits)), torch.from_numpy(np.concatenate(labels)))
