"""Samples of slots, by number, joined with their stored targets. Each process opens its own."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import JoinError
from embedkd.join.files import ShardFile
from embedkd.join.recent import Recent
from embedkd.records import RowStatus, key_hash
from embedkd.sources.fields import LABEL_SUFFIX, NO_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any, Self

    from numpy.typing import NDArray

    from embedkd.records import Shard
    from embedkd.store import Slot, TeacherView


@dataclass(frozen=True)
class SlotTargets:
    """What a store says of one slot.

    Attributes:
        ordinals: int64 [m], samples of the slot that can be used, in order.
        keys: u64 [n].
        labels: i32 [n].
        rows: Output to [n, D] in the stored dtype.
    """

    ordinals: "NDArray[np.int64]"
    keys: "NDArray[np.uint64]"
    labels: "NDArray[np.int32]"
    rows: "Mapping[str, NDArray[np.floating[Any]]]"

    @classmethod
    def read(cls, view: "TeacherView", slot: "Slot", outputs: tuple[str, ...], *, labels_needed: bool) -> "Self":
        """Read one slot of a store; with no outputs, the teacher's first one decides what can be used.

        Raises:
            StoreError: See `TeacherView.read`.
        """
        reads = {output: view.read(slot, output) for output in outputs}
        if reads:
            first = reads[outputs[0]]
            keys, labels = first.keys, first.labels
            usable = np.logical_and.reduce([read.status == RowStatus.OK for read in reads.values()])
        else:
            keys, labels, status = view.read_labels(slot, view.outputs[0])
            usable = status == RowStatus.OK
        if labels_needed:
            usable &= labels != NO_LABEL
        return cls(np.flatnonzero(usable), keys, labels, {output: read.rows for output, read in reads.items()})


@dataclass(frozen=True)
class Joined:
    """One sample with its targets, undecoded.

    Attributes:
        key: Its key.
        where: The sample, as messages name it.
        image: Bytes of the image.
        label: Its label, NO_LABEL without one.
        targets: Output to [D] in the stored dtype.
    """

    key: str
    where: str
    image: bytes
    label: int
    targets: "dict[str, NDArray[np.floating[Any]]]"


class SlotReader:
    """Reads samples of slots by number.

    Args:
        slots: The slots.
        counts: Usable samples of each.
        path_of: From a shard to its file.
        targets_of: From a slot to its targets; None reads labels from the shards and joins nothing.
        labels_needed: Whether a sample without a label is an error where nothing is joined.
        open_slots: How many slots stay in memory.
    """

    def __init__(
        self,
        slots: "tuple[Slot, ...]",
        counts: tuple[int, ...],
        path_of: "Callable[[Shard], Path]",
        targets_of: "Callable[[Slot], SlotTargets] | None",
        *,
        labels_needed: bool,
        open_slots: int,
    ) -> None:
        self._slots = slots
        self._counts = counts
        self._path_of = path_of
        self._targets_of = targets_of
        self._labels_needed = labels_needed
        self._open_slots = open_slots

    @cached_property
    def _files(self) -> "Recent[Shard, ShardFile]":
        return Recent(lambda shard: ShardFile(shard, self._path_of(shard)), 4 * self._open_slots)

    @cached_property
    def _targets(self) -> Recent[int, SlotTargets]:
        return Recent(self._read_targets, self._open_slots)

    def _read_targets(self, at: int) -> SlotTargets:
        assert self._targets_of is not None
        targets = self._targets_of(self._slots[at])
        if len(targets.ordinals) != self._counts[at]:
            raise JoinError(
                f"slot {self._slots[at].index} has {len(targets.ordinals)} usable samples, expected "
                f"{self._counts[at]}: the store was changed while in use; start again"
            )
        return targets

    def read(self, at: int, number: int) -> Joined:
        """One sample.

        Args:
            at: Which of the slots.
            number: Which of the slot's usable samples.

        Raises:
            JoinError: The key in the tar is not the key in the store, or there is no label where one is needed.
            ShardError: The tar is another one.
            StoreError: The store's rows cannot be trusted.
        """
        slot = self._slots[at]
        if self._targets_of is None:
            return self._plain(self._files.get(slot.shard), slot.start + number)
        targets = self._targets.get(at)
        row = int(targets.ordinals[number])
        file, ordinal = self._files.get(slot.shard), slot.start + row
        if key_hash(file.keys[ordinal]) != int(targets.keys[row]):
            raise JoinError(
                f"{file.where(ordinal)} (number {ordinal}) has another key in the store; precompute the store again"
            )
        rows = {output: values[row] for output, values in targets.rows.items()}
        return Joined(file.keys[ordinal], file.where(ordinal), file.image(ordinal), int(targets.labels[row]), rows)

    def _plain(self, file: ShardFile, ordinal: int) -> Joined:
        number = file.label(ordinal)
        if self._labels_needed and number == NO_LABEL:
            raise JoinError(f"{file.where(ordinal)} has no label; expected a class number in .{LABEL_SUFFIX}")
        return Joined(file.keys[ordinal], file.where(ordinal), file.image(ordinal), number, {})
