"""Merging stores that were made in parts, by the same teachers over shards of the same data."""

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import ConflictError, StoreError
from embedkd.progress import Silent
from embedkd.records import RowStatus
from embedkd.store.agreeing import same_rows
from embedkd.store.classes import averaged_outputs, set_names
from embedkd.store.creation import create_store, remembered_root
from embedkd.store.manifest import slots_of
from embedkd.store.reader import EmbeddingStore, open_store, shard_identity
from embedkd.store.transfer import Span, is_committed, read_span, slots_by_shard, transfer
from embedkd.store.writer import PassWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.progress import Progress
    from embedkd.records import Shard
    from embedkd.storage import Storage
    from embedkd.store.manifest import Slot
    from embedkd.store.view import TeacherView


@dataclass
class MergeReport:
    """What merging did, or would do.

    Attributes:
        shards: Of the merged store.
        slots: Of the merged store.
        capacity: Its rows a slot.
        written: Slots of passes that were written.
        present: Slots of passes that were there already.
        holes: Slots of passes that no part has.
        class_sets: Class sets of the parts, which are not merged: their means are of the parts.
    """

    shards: int = 0
    slots: int = 0
    capacity: int = 0
    written: int = 0
    present: int = 0
    holes: int = 0
    class_sets: int = 0


@dataclass(frozen=True)
class _Part:
    """One store that is merged."""

    store: EmbeddingStore
    views: "dict[str, TeacherView]"
    slots: "dict[str, list[Slot]]"

    @classmethod
    def of(cls, storage: "Storage") -> "_Part":
        store = open_store(storage)
        return cls(store, {name: store.teacher(name) for name in store.teacher_ids}, slots_by_shard(store))

    def span(self, shard: "Shard", start: int, rows: int) -> Span | None:
        slots = self.slots.get(shard.url)
        return None if slots is None else Span.of(slots, start, rows)


def merge_stores(
    sources: "Sequence[Storage]",
    target: "Storage",
    *,
    root: str | None = None,
    capacity: int | None = None,
    progress: "Progress | None" = None,
    dry_run: bool = False,
) -> MergeReport:
    """Make one store of several.

    Its shards are those of the first part in their order, then what the others have besides. Slots get new numbers, so
    commits are written anew; they keep the facts of their origin. Objects are copied byte for byte, unless the
    capacity changes.

    Args:
        sources: The parts.
        target: Where the merged store shall be; one that is there already is gone on with.
        root: Where the shards lie, where the parts do not remember one and the same place.
        capacity: Rows a slot; by default the first part's.
        progress: Who watches.
        dry_run: Look and compare, and write nothing.

    Raises:
        ConflictError: Two parts say different things of one shard; both are named.
        StoreError: The parts do not belong together.
    """
    watch, parts = progress or Silent(), [_Part.of(source) for source in sources]
    _check_settings(parts)
    shards = _union(parts)
    _check_rows(parts, shards, watch)
    rows = capacity or parts[0].store.capacity
    report = MergeReport(shards=len(shards), slots=len(slots_of(shards, rows)), capacity=rows)
    report.class_sets = sum(_count_sets(view) for part in parts for view in part.views.values())
    first = parts[0].store
    remembered = _root([part.store for part in parts], target, root)
    store = None
    if not dry_run:
        store = create_store(
            target, shards, root=remembered, classes=first.class_names, policy=first.policy, capacity=rows
        )
    slots = slots_of(shards, rows) if store is None else store.slots
    passes = {
        (name, run): part.views[name]
        for part in reversed(parts)
        for name in part.views
        for run in part.views[name].passes
    }
    watch.begin("merge", len(passes) * len(slots), "slots")
    try:
        for (teacher_id, pass_id), view in sorted(passes.items(), key=lambda item: item[0]):
            writer = None if store is None else PassWriter(store, view.spec, view.passes[pass_id])
            for slot in slots:
                _merge_slot(parts, teacher_id, pass_id, slot, writer, report)
                watch.advance(1)
    finally:
        watch.end()
    return report


def _merge_slot(
    parts: list[_Part], teacher_id: str, pass_id: str, slot: "Slot", writer: PassWriter | None, report: MergeReport
) -> None:
    if writer is not None and writer.is_committed(slot):
        report.present += 1
        return
    for part in parts:
        view, span = part.views.get(teacher_id), part.span(slot.shard, slot.start, slot.rows)
        if view is not None and span is not None and is_committed(view, pass_id, span):
            if writer is not None:
                same = part.store.capacity == report.capacity
                transfer(view, pass_id, span, writer, slot, same_capacity=same, facts={"by": "merge"})
            report.written += 1
            return
    report.holes += 1


def _check_settings(parts: list[_Part]) -> None:
    first = parts[0].store
    for part in parts[1:]:
        store = part.store
        if store.policy != first.policy:
            raise StoreError(f"{store.storage.url} was made with another decode policy than {first.storage.url}")
        if store.class_names != first.class_names:
            raise StoreError(f"{store.storage.url} has other class names than {first.storage.url}")
    specs: dict[str, tuple[str, str]] = {}
    for part in parts:
        for teacher_id, view in part.views.items():
            known = specs.setdefault(teacher_id, (view.spec.fingerprint, part.store.storage.url))
            if known[0] != view.spec.fingerprint:
                raise ConflictError(f"{teacher_id} is another teacher in {part.store.storage.url} than in {known[1]}")


def _union(parts: list[_Part]) -> "tuple[Shard, ...]":
    """All shards, each once.

    Raises:
        ConflictError: Two parts mean different shards by one name.
    """
    found: dict[str, tuple[Shard, str]] = {}
    for part in parts:
        for shard in part.store.shards:
            known, url = found.setdefault(shard.url, (shard, part.store.storage.url))
            if shard_identity(known) != shard_identity(shard):
                raise ConflictError(
                    f"{shard.url} is another shard in {part.store.storage.url} than in {url} (other bytes, samples or "
                    "split); merge parts of the same data"
                )
    return tuple(shard for shard, _ in found.values())


def _check_rows(parts: list[_Part], shards: "tuple[Shard, ...]", watch: "Progress") -> None:
    """Compare what several parts say of the same shards.

    Raises:
        ConflictError: They say different things.
    """
    shared = [(shard, [part for part in parts if shard.url in part.slots]) for shard in shards]
    shared = [(shard, having) for shard, having in shared if len(having) > 1]
    watch.begin("compare what overlaps", len(shared), "shards")
    try:
        for shard, having in shared:
            for one, other in combinations(having, 2):
                _check_shard(shard, one, other)
            watch.advance(1)
    finally:
        watch.end()


def _check_shard(shard: "Shard", one: _Part, other: _Part) -> None:
    for teacher_id in one.views.keys() & other.views.keys():
        mine, theirs = one.views[teacher_id], other.views[teacher_id]
        for output in sorted(set(mine.outputs) & set(theirs.outputs)):
            if not _agree(mine, theirs, output, [part.span(shard, 0, shard.rows) for part in (one, other)]):
                raise ConflictError(
                    f"{output} of {teacher_id} has other rows of {shard.url} in {other.store.storage.url} than in "
                    f"{one.store.storage.url}; leave one of them out, or compute that shard again"
                )


def _agree(mine: "TeacherView", theirs: "TeacherView", output: str, spans: "list[Span | None]") -> bool:
    """Whether two parts say the same of a shard, as far as both have committed it."""
    a, b = spans
    assert a is not None
    assert b is not None
    if any(view.commit(slot, output) is None for view, span in ((mine, a), (theirs, b)) for slot in span.slots):
        return True
    if mine.store.capacity == theirs.store.capacity and _digests(mine, output, a) == _digests(theirs, output, b):
        return True
    read, other = read_span(mine, output, a), read_span(theirs, output, b)
    same = all(
        np.array_equal(getattr(read, name), getattr(other, name)) for name in ("keys", "labels", "places", "status")
    )
    lost = max(
        view.committed(s, output).error[output].max for view, span in ((mine, a), (theirs, b)) for s in span.slots
    )
    return same and same_rows(read.stored, other.stored, read.status == RowStatus.OK, lost=lost)


def _digests(view: "TeacherView", output: str, span: Span) -> list[str]:
    schemas = (*view.row_schemas(), *view.output_schemas(output))
    commits = [(slot, view.committed(slot, output)) for slot in span.slots]
    return [commit.record(schema.chunk_key(slot.index)).blake2b for slot, commit in commits for schema in schemas]


def _root(stores: list[EmbeddingStore], target: "Storage", root: str | None) -> str:
    """Where the shards lie, as the merged store remembers it.

    Raises:
        StoreError: The parts remember different places.
    """
    places = {store.data_root for store in stores} if root is None else {root}
    if len(places) > 1:
        raise StoreError(f"the parts remember their shards at {' and '.join(sorted(places))}; say which with --data")
    (place,) = places
    return remembered_root(place, target.url)


def _count_sets(view: "TeacherView") -> int:
    return sum(len(set_names(view, output)) for output in averaged_outputs(view))
