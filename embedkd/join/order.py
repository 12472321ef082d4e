"""In which order an epoch visits its samples: a pure function of (seed, epoch), for any number of ranks and workers.

The idea is that of mosaicml/streaming, without shared memory. Slots are shuffled and laid end to end; the line
is cut into *lanes* of equal length, wherever in a slot the cuts fall; inside a lane, blocks of consecutive samples are
shuffled; positions take the lanes in turn. A reader has one or two slots a lane open, and the whole order is computed
from counts.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from embedkd.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_LANES = 8
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch.

    Args:
        counts: Samples of each slot.
        seed: Of the run.
        epoch: From 0.
        shuffle: False visits slots and samples as they lie.
        block_rows: Samples that are shuffled together inside a lane.
    """

    counts: tuple[int, ...]
    seed: int
    epoch: int
    shuffle: bool = True
    block_rows: int = BLOCK_ROWS
    _slots: "NDArray[np.int64]" = field(init=False, repr=False, compare=False)
    _ends: "NDArray[np.int64]" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        slots = np.arange(len(self.counts), dtype=np.int64)
        if self.shuffle:
            slots = generator(self.seed, "slots", self.epoch).permutation(slots)
        object.__setattr__(self, "_slots", slots)
        object.__setattr__(self, "_ends", np.cumsum(np.array(self.counts, dtype=np.int64)[slots]))

    @property
    def rows(self) -> int:
        """Samples of the epoch."""
        return sum(self.counts)

    @property
    def lanes(self) -> int:
        """Number of lanes: one where a block holds everything, so that small data sets are shuffled as a whole."""
        return max(1, min(MAX_LANES, -(-self.rows // self.block_rows))) if self.shuffle else 1

    def at(self, positions: "NDArray[np.int64]") -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
        """Which samples stand at these positions of the epoch.

        Args:
            positions: int64 [n], each in [0, rows).

        Returns:
            Slots [n] and, in each, the number of the sample among the slot's counted ones [n].
        """
        line = self._on_line(positions) if self.shuffle else positions
        place = np.searchsorted(self._ends, line, side="right")
        begins = self._ends[place] - np.array(self.counts, dtype=np.int64)[self._slots[place]]
        return self._slots[place], line - begins

    def _on_line(self, positions: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """Positions of the epoch to positions on the line of all slots laid end to end."""
        lanes, rows = self.lanes, self.rows
        lane, within = positions % lanes, positions // lanes
        begins = np.array([_lane_begin(rows, lanes, k) for k in range(lanes + 1)], dtype=np.int64)
        line = np.empty_like(positions)
        block = within // self.block_rows
        for key in {(int(a), int(b)) for a, b in zip(lane, block, strict=True)}:
            chosen = (lane == key[0]) & (block == key[1])
            first = begins[key[0]] + key[1] * self.block_rows
            length = min(self.block_rows, int(begins[key[0] + 1] - first))
            shuffled = _block_permutation(self.seed, self.epoch, *key, length)
            line[chosen] = first + shuffled[within[chosen] % self.block_rows]
        return line


def _lane_begin(rows: int, lanes: int, lane: int) -> int:
    """Where a lane begins: the first ``rows % lanes`` lanes are one longer, so that taking turns visits each once."""
    return lane * (rows // lanes) + min(lane, rows % lanes)


@lru_cache(maxsize=4 * MAX_LANES)
def _block_permutation(seed: int, epoch: int, lane: int, block: int, length: int) -> "NDArray[np.int64]":
    permutation = generator(seed, "block", epoch, lane, block).permutation(length)
    permutation.setflags(write=False)
    return permutation


def batch_positions(
    rows: int, step: int, global_batch_size: int, rank: int = 0, world_size: int = 1
) -> "tuple[NDArray[np.int64], NDArray[np.bool_]]":
    """Positions of one rank's share of one global batch, and which of them count.

    Every rank gets equally many, so that they step together; in the last batch the shares are padded with samples that
    do not count (``valid`` False), so that each sample of an epoch counts exactly once.
    """
    first, last = step * global_batch_size, min((step + 1) * global_batch_size, rows)
    share = -(-(last - first) // world_size)
    positions = first + rank * share + np.arange(share, dtype=np.int64)
    valid = positions < last
    return np.where(valid, positions, first), valid
