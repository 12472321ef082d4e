"""Samples of slots, by number, joined with their stored targets. Each process opens its own."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from embedkd.errors import JoinError
from embedkd.join.files import SampleTable, ShardFile, scan_table
from embedkd.join.recent import Recent
from embedkd.sources.fields import LABEL_SUFFIX, NO_LABEL, image_suffix, label
from embedkd.sources.roots import ShardSource, open_root
from embedkd.storage.places import is_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from embedkd.records import Sample, Shard
    from embedkd.storage import Storage
    from embedkd.store import Rows, Slot

_ASKED_AT_ONCE = 16  # reads from a remote place: each waits for an answer, and a batch has many
_OPEN_FILES = 256  # below the 1,024 that a process may have open nearly everywhere


@dataclass(frozen=True)
class SlotTargets:
    """What stores say of one slot.

    Attributes:
        ordinals: int64 [m], samples of the slot that can be used, in order.
        table: What proves its samples.
        labels: i32 [n].
        rows: Name of a target to n rows, encoded as they are stored; one is decoded when it is asked for.
        unlabelled: How many could be used if they had a label.
    """

    ordinals: "NDArray[np.int64]"
    table: SampleTable
    labels: "NDArray[np.int32]"
    rows: "Mapping[str, Rows]"
    unlabelled: int = 0


@dataclass(frozen=True)
class Joined:
    """One sample with its targets, undecoded.

    Attributes:
        key: Its key.
        where: The sample, as messages name it.
        image: Bytes of the image.
        label: Its label, NO_LABEL without one.
        targets: Name to [D], float16 or float32.
    """

    key: str
    where: str
    image: bytes
    label: int
    targets: "dict[str, NDArray[np.floating[Any]]]"


@dataclass(frozen=True)
class _Task:
    """One sample that is to be read.

    Attributes:
        slot: The slot.
        row: Of the sample in the slot.
        file: Its tar.
        table: Of the slot's samples, or of all samples of the tar.
        first: The slot's first row in the table.
        targets: Of the slot; None where nothing is joined.
    """

    slot: "Slot"
    row: int
    file: ShardFile
    table: SampleTable
    first: int
    targets: SlotTargets | None


class SlotReader:
    """Reads samples of slots by number.

    Args:
        slots: The slots.
        counts: Usable samples of each.
        root: Where the shards lie.
        targets_of: From a slot and a turn to its targets; None reads labels from the shards and joins nothing.
        labels_needed: Whether a sample without a label is an error where nothing is joined.
        open_slots: How many slots stay in memory.
        at_once: Whether reads wait for answers from elsewhere, so that many are sent at once.
    """

    def __init__(
        self,
        slots: "tuple[Slot, ...]",
        counts: tuple[int, ...],
        root: str,
        targets_of: "Callable[[Slot, int], SlotTargets] | None",
        *,
        labels_needed: bool,
        open_slots: int,
        at_once: bool,
    ) -> None:
        self._slots = slots
        self._counts = counts
        self._root = root
        self._targets_of = targets_of
        self._labels_needed = labels_needed
        self._open_slots = open_slots
        self._at_once = at_once

    @cached_property
    def _storage(self) -> "Storage":
        return open_root(self._root)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="embedkd-join")

    @cached_property
    def _files(self) -> "Recent[Shard, ShardFile]":
        return Recent(lambda shard: ShardFile(shard, self._source(shard)), min(self._open_slots, _OPEN_FILES))

    @cached_property
    def _scanned(self) -> "Recent[Shard, SampleTable]":
        return Recent(lambda shard: scan_table(shard, self._source(shard)), self._open_slots)

    @cached_property
    def _targets(self) -> Recent[tuple[int, int], SlotTargets]:
        return Recent(self._read_targets, self._open_slots)

    def _source(self, shard: "Shard") -> ShardSource:
        return ShardSource(self._storage, shard.url)

    def _each(self, function: "Callable[[Any], Any]", items: "Iterable[Any]") -> "Iterable[Any]":
        return self._pool.map(function, items) if self._at_once else map(function, items)

    def _read_targets(self, at_turn: tuple[int, int]) -> SlotTargets:
        assert self._targets_of is not None
        at, turn = at_turn
        targets = self._targets_of(self._slots[at], turn)
        if len(targets.ordinals) != self._counts[at]:
            raise JoinError(
                f"slot {self._slots[at].index} has {len(targets.ordinals)} usable samples, expected "
                f"{self._counts[at]}: the store was changed while in use; start again"
            )
        return targets

    def read(self, at: int, number: int) -> Joined:
        """One sample; see `read_all`."""
        return self.read_all([(at, number)])[0]

    def read_all(self, wanted: "Sequence[tuple[int, int]]", turn: int = 0) -> list[Joined]:
        """Some samples, in the order given.

        Args:
            wanted: For each, which of the slots, and which of the slot's usable samples.
            turn: Which of the stored views, from 0, round and round.

        Raises:
            JoinError: The key in the tar is not the key in the store, or there is no label where one is needed.
            ShardError: The tar, or the sample in it, is another one.
            StorageError: A remote tar or store cannot be read.
            StoreError: The store's rows cannot be trusted.
        """
        return list(self._each(self._join, self._tasks(wanted, turn)))

    def _tasks(self, wanted: "Sequence[tuple[int, int]]", turn: int) -> list[_Task]:
        """Where these samples lie, with all that has to be opened for them."""
        slots = {at: self._slots[at] for at, _ in wanted}
        shards = [slot.shard for slot in slots.values()]
        files = self._files.get_all(shards, self._each)
        if self._targets_of is None:
            tables = self._scanned.get_all(shards, self._each)
            plain = [(slots[at], number) for at, number in wanted]
            return [_Task(slot, row, files[slot.shard], tables[slot.shard], slot.start, None) for slot, row in plain]
        found = self._targets.get_all([(at, turn) for at in slots], self._each)
        stored = {at: found[at, turn] for at in slots}
        rows = [(at, int(stored[at].ordinals[number])) for at, number in wanted]
        return [_Task(slots[at], row, files[slots[at].shard], stored[at].table, 0, stored[at]) for at, row in rows]

    def _join(self, task: _Task) -> Joined:
        sample = task.file.sample(task.slot.start + task.row, task.table, task.first + task.row)
        where = f"sample {sample.key!r} of {task.slot.shard.url}"
        image = _image(sample, where)
        if task.targets is None:
            return Joined(sample.key, where, image, self._label(sample, where), {})
        rows = {output: values[task.row] for output, values in task.targets.rows.items()}
        return Joined(sample.key, where, image, int(task.targets.labels[task.row]), rows)

    def _label(self, sample: "Sample", where: str) -> int:
        number = label(sample.fields, where)
        if self._labels_needed and number == NO_LABEL:
            raise JoinError(f"{where} has no label; expected a class number in .{LABEL_SUFFIX}")
        return number


def _image(sample: "Sample", where: str) -> bytes:
    suffix = image_suffix(sample.fields, where)
    if suffix is None:
        raise JoinError(f"{where} has no image; train on a store of these shards, which knows what to leave out")
    return sample.fields[suffix]


def is_elsewhere(*places: str | None) -> bool:
    """Whether one of these places is remote, so that reading it is mostly waiting."""
    return any(place is not None and is_remote(place) for place in places)
