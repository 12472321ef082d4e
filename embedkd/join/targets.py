"""Rows of one teacher for the slots of whichever store leads: the same tar, and the same samples in it.

Stores of one data set may cut its tars into other slots, and hold them in another order. What belongs together is found
by the tar's length and digest and by the sample's number in it; the keys must agree.
"""

from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from embedkd.join.recent import Recent
from embedkd.records import RowStatus
from embedkd.store import EmbeddingStore, TeacherView, open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from embedkd.records import Shard
    from embedkd.store import Rows, Slot, SlotRead

Tar = tuple[int, str]
_OTHER_SLOTS = 8  # read ahead of their turn, where the other store's slots are longer


@dataclass(frozen=True)
class Target:
    """Rows that come with each batch.

    Attributes:
        name: Under which they come.
        store: Path or URL of their store.
        teacher_ids: The teacher in it; several are stored views of one, of which every epoch takes the next.
        output: The teacher's output.
    """

    name: str
    store: str
    teacher_ids: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Part:
    """Rows ``first`` to ``last`` (exclusive) of a slot."""

    slot: "Slot"
    first: int
    last: int

    @property
    def is_whole(self) -> bool:
        """Whether these are all of its rows."""
        return (self.first, self.last) == (0, self.slot.rows)


def tar_of(shard: "Shard") -> Tar:
    """What a tar is, wherever it lies."""
    return shard.size_bytes, shard.blake2b


class Places:
    """Finds the slots of other stores in one store.

    Args:
        slots: Of this store.
    """

    def __init__(self, slots: "Sequence[Slot]") -> None:
        self._slots: dict[Tar, list[Slot]] = {}
        for slot in slots:
            held = self._slots.setdefault(tar_of(slot.shard), [])
            if not held or held[0].shard == slot.shard:  # the same tar twice says the same twice
                held.append(slot)

    def __contains__(self, shard: "Shard") -> bool:
        return tar_of(shard) in self._slots

    def parts(self, slot: "Slot") -> list[Part]:
        """Where the samples of a slot lie here, in order; they are all here where the tar is."""
        first, last = slot.start, slot.start + slot.rows
        held = self._slots.get(tar_of(slot.shard), [])
        cut = [Part(s, max(first - s.start, 0), min(last - s.start, s.rows)) for s in held]
        return [part for part in cut if part.first < part.last]


@dataclass(frozen=True)
class PartRead:
    """What one teacher says of the samples of a slot.

    Attributes:
        stored: Their rows, encoded as they are stored.
        status: u8 [n].
        keys: u64 [n].
        labels: i32 [n].
        places: u64 [n, 3].
    """

    stored: "Rows"
    status: "NDArray[np.uint8]"
    keys: "NDArray[np.uint64]"
    labels: "NDArray[np.int32]"
    places: "NDArray[np.uint64]"

    @classmethod
    def joined(cls, reads: "Sequence[SlotRead]", parts: "Sequence[Part]") -> "PartRead":
        """The rows of all parts, one behind the other."""
        if len(parts) == 1 and parts[0].is_whole:
            (read,) = reads
            return cls(read.stored, read.status, read.keys, read.labels, read.places)
        cuts = [slice(part.first, part.last) for part in parts]
        taken = [read.stored.take(cut) for read, cut in zip(reads, cuts, strict=True)]

        def column(name: str) -> "NDArray[np.generic]":
            return np.concatenate([getattr(read, name)[cut] for read, cut in zip(reads, cuts, strict=True)])

        return cls(type(taken[0]).joined(taken), *map(column, ("status", "keys", "labels", "places")))  # type: ignore[arg-type]


class Opened:
    """Stores and teachers that this process has open, each once: what is checked of one is checked once."""

    def __init__(self) -> None:
        self._stores: dict[str, EmbeddingStore] = {}
        self._views: dict[tuple[str, str], TeacherView] = {}

    def view(self, store: str, teacher_id: str) -> TeacherView:
        """One teacher's part of a store.

        Raises:
            StoreError: The store cannot be opened.
        """
        if store not in self._stores:
            self._stores[store] = open_store(store)
        if (store, teacher_id) not in self._views:
            self._views[store, teacher_id] = TeacherView(self._stores[store], teacher_id)
        return self._views[store, teacher_id]


@dataclass
class TargetReader:
    """Reads a target.

    Attributes:
        target: What is read.
        views: The teacher, or its stored views in their order.
    """

    target: Target
    views: tuple[TeacherView, ...]
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def store(self) -> EmbeddingStore:
        """The store that it is read from."""
        return self.views[0].store

    @cached_property
    def _places(self) -> Places:
        return Places(self.store.slots)

    @cached_property
    def _others(self) -> "Recent[tuple[int, Slot], SlotRead]":
        return Recent(lambda at: self.views[at[0]].read(at[1], self.target.output), _OTHER_SLOTS)

    def prepare(self, slot: "Slot") -> None:
        """Read what slots share, before several threads want it at once."""
        for view in self.views:
            for part in self._places.parts(slot)[:1]:
                view.committed(part.slot, self.target.output)

    def read(self, slot: "Slot", turn: int) -> PartRead:
        """Rows of the samples of a slot, of whichever store it is.

        Args:
            slot: The slot.
            turn: Which of the stored views, from 0, round and round.

        Raises:
            StoreError: See `TeacherView.read`.
        """
        at, parts = turn % len(self.views), self._places.parts(slot)
        if all(part.is_whole for part in parts):
            return PartRead.joined([self.views[at].read(part.slot, self.target.output) for part in parts], parts)
        with self._lock:  # these slots are shared with slots that other threads read now
            reads = self._others.get_all([(at, part.slot) for part in parts], map)
        return PartRead.joined([reads[at, part.slot] for part in parts], parts)

    def usable(self, slot: "Slot", read: PartRead, turn: int) -> "NDArray[np.bool_]":
        """Which samples have a row, bool [n]: in every view, so that it is the same in every epoch.

        Args:
            slot: The slot.
            read: What was read of it.
            turn: The turn it was read for.
        """
        found: NDArray[np.bool_] = read.status == RowStatus.OK
        for number, view in enumerate(self.views):
            if number != turn % len(self.views):
                found = found & self._has_rows(view, slot)
        return found

    def _has_rows(self, view: TeacherView, slot: "Slot") -> "NDArray[np.bool_]":
        """Bool [n]; reads nothing where the commits say that all have."""
        masks = []
        for part in self._places.parts(slot):
            commit, cut = view.committed(part.slot, self.target.output), slice(part.first, part.last)
            if commit.ok[self.target.output] == part.slot.rows:
                masks.append(np.ones(part.last - part.first, np.bool_))
            else:
                masks.append(view.read_samples(part.slot, self.target.output).status[cut] == RowStatus.OK)
        return np.concatenate(masks)
