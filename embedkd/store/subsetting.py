"""Subsets: a store of some of the samples of another, each in the place that it had.

A row that is not kept stays as a row with the status DROPPED and without values, so ordinals, keys and labels are as
before and the same shards are joined with it. Shards of which nothing is kept are left out.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import StoreError, UnknownNameError
from embedkd.progress import Silent
from embedkd.store.creation import create_store, remembered_root
from embedkd.store.manifest import slots_of
from embedkd.store.reader import open_store
from embedkd.store.transfer import Span, transfer
from embedkd.store.writer import PassWriter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from embedkd.progress import Progress
    from embedkd.records import Shard
    from embedkd.storage import Storage
    from embedkd.store.manifest import Slot
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.view import TeacherView


@dataclass(frozen=True)
class Selection:
    """Which samples are kept: those that fit every condition that is given.

    Attributes:
        labels: Of these classes; None for any, also without a label.
        keys: With these key hashes (`key_hash`); None for any.
        slots: In these slots; None for any.
    """

    labels: frozenset[int] | None = None
    keys: frozenset[int] | None = None
    slots: frozenset[int] | None = None

    def mask(self, slot: "Slot", keys: "NDArray[np.uint64]", labels: "NDArray[np.int32]") -> "NDArray[np.bool_]":
        """Which samples of a slot are kept: bool [n]."""
        kept = np.full(slot.rows, self.slots is None or slot.index in self.slots)
        if self.labels is not None:
            kept &= np.isin(labels, sorted(self.labels))
        if self.keys is not None:
            kept &= np.isin(keys, np.array(sorted(self.keys), np.uint64))
        return kept


@dataclass
class SubsetReport:
    """What making a subset did, or would do.

    Attributes:
        shards: Of the subset.
        slots: Of the subset.
        rows: Samples of these slots.
        kept: Samples that are kept.
        written: Slots of passes that were written.
        present: Slots of passes that were there already.
    """

    shards: int = 0
    slots: int = 0
    rows: int = 0
    kept: int = 0
    written: int = 0
    present: int = 0


def labels_of(store: "EmbeddingStore", classes: "Iterable[str]") -> frozenset[int]:
    """Labels of classes that are named, or given as numbers.

    Raises:
        UnknownNameError: There is no such class.
    """
    names = store.class_names or ()
    found: set[int] = set()
    for name in classes:
        if name in names:
            found.add(names.index(name))
        elif name.isascii() and name.isdigit() and (not names or int(name) < len(names)):
            found.add(int(name))
        else:
            raise UnknownNameError(f"class of {store.storage.url}", name, names)
    return frozenset(found)


def subset_store(
    source: "Storage",
    target: "Storage",
    selection: Selection,
    *,
    progress: "Progress | None" = None,
    dry_run: bool = False,
) -> SubsetReport:
    """Make a store of some samples of another.

    Args:
        source: The other store. What it has not computed is a hole in the subset too.
        target: Where the subset shall be; one that is there already is gone on with.
        selection: What is kept.
        progress: Who watches.
        dry_run: Look, and write nothing.

    Raises:
        StoreError: Nothing is kept, the selection needs rows that are not there, or another store is at the target.
    """
    watch, store, report = progress or Silent(), open_store(source), SubsetReport()
    views = [store.teacher(name) for name in store.teacher_ids]
    masks = _masks(store, views, selection, watch)
    shards = _kept_shards(store, masks)
    kept_urls = {shard.url for shard in shards}
    origins = [slot for slot in store.slots if slot.shard.url in kept_urls]
    report.kept = sum(int(masks[slot.index].sum()) for slot in origins)
    if not report.kept:
        raise StoreError(f"nothing of {store.storage.url} is kept; check the classes, keys or slots")
    report.shards, report.slots, report.rows = len(shards), len(origins), sum(slot.rows for slot in origins)
    made = None
    if not dry_run:
        made = create_store(
            target,
            shards,
            root=_root(store, target),
            classes=store.class_names,
            policy=store.policy,
            capacity=store.capacity,
        )
    slots = slots_of(shards, store.capacity) if made is None else made.slots
    watch.begin("subset", sum(len(view.passes) for view in views) * len(slots), "slots")
    try:
        for view in views:
            for pass_id, plan in view.passes.items():
                writer = None if made is None else PassWriter(made, view.spec, plan)
                for origin, slot in zip(origins, slots, strict=True):
                    _subset_slot(view, pass_id, (origin, slot), writer, masks[origin.index], report)
                    watch.advance(1)
    finally:
        watch.end()
    return report


def _subset_slot(
    view: "TeacherView",
    pass_id: str,
    slots: "tuple[Slot, Slot]",
    writer: PassWriter | None,
    mask: "NDArray[np.bool_]",
    report: SubsetReport,
) -> None:
    origin, slot = slots
    if writer is not None and writer.is_committed(slot):
        report.present += 1
    elif view.log.commit_of(origin, pass_id) is not None:
        report.written += 1
        if writer is not None:
            span, facts = Span((origin,), origin.start, origin.rows), {"by": "subset", "kept": int(mask.sum())}
            keep = None if mask.all() else mask
            transfer(view, pass_id, span, writer, slot, same_capacity=True, keep=keep, facts=facts)


def _masks(
    store: "EmbeddingStore", views: "list[TeacherView]", selection: Selection, watch: "Progress"
) -> "list[NDArray[np.bool_]]":
    """Which samples of each slot are kept.

    Raises:
        StoreError: Keys or labels of a slot are asked for and nobody has computed it.
    """
    masks: list[NDArray[np.bool_]] = []
    watch.begin("choose", len(store.slots), "slots")
    try:
        for slot in store.slots:
            keys, labels = np.zeros(slot.rows, np.uint64), np.full(slot.rows, -1, np.int32)
            wanted = selection.slots is None or slot.index in selection.slots
            if wanted and (selection.labels is not None or selection.keys is not None):
                keys, labels = _rows_of(views, slot)
            masks.append(selection.mask(slot, keys, labels))
            watch.advance(1)
    finally:
        watch.end()
    return masks


def _rows_of(views: "list[TeacherView]", slot: "Slot") -> "tuple[NDArray[np.uint64], NDArray[np.int32]]":
    for view in views:
        for output in view.outputs:
            if view.commit(slot, output) is not None:
                samples = view.read_samples(slot, output)
                return samples.keys, samples.labels
    raise StoreError(
        f"slot {slot.index} ({slot.shard.url}) has no rows yet, so nobody knows its keys and labels; run embedkd "
        "precompute to its end, or choose slots"
    )


def _kept_shards(store: "EmbeddingStore", masks: "list[NDArray[np.bool_]]") -> "tuple[Shard, ...]":
    """Shards of which something is kept; a shard without samples is no reason to leave it out."""
    urls = {slot.shard.url for slot in store.slots if masks[slot.index].any() or not slot.shard.rows}
    return tuple(shard for shard in store.shards if shard.url in urls)


def _root(store: "EmbeddingStore", target: "Storage") -> str:
    return remembered_root(store.data_root, target.url)
