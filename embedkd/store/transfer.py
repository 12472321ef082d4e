"""Slots on their way from one store into another: byte for byte where both cut alike, else encoded again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.records import RowStatus
from embedkd.store.inventory import StoredObject, read_object
from embedkd.store.writer import SlotRows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from embedkd.store.manifest import Slot
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.view import SlotRead, TeacherView
    from embedkd.store.writer import PassWriter


@dataclass(frozen=True)
class Span:
    """Consecutive samples of one shard, as one store holds them.

    Attributes:
        slots: That they lie in, in order.
        start: Ordinal of the first sample in the tar.
        rows: Number of samples.
    """

    slots: "tuple[Slot, ...]"
    start: int
    rows: int

    @classmethod
    def of(cls, slots: "Sequence[Slot]", start: int, rows: int) -> "Span":
        """The span within all slots of its shard; a shard without samples has one slot and an empty span."""
        end = start + max(rows, 1)
        return cls(
            tuple(slot for slot in slots if slot.start < end and slot.start + max(slot.rows, 1) > start), start, rows
        )

    @property
    def is_slot(self) -> bool:
        """Whether it is exactly one slot."""
        return len(self.slots) == 1 and (self.slots[0].start, self.slots[0].rows) == (self.start, self.rows)


def slots_by_shard(store: "EmbeddingStore") -> "dict[str, list[Slot]]":
    """All slots of every shard, by its url."""
    found: dict[str, list[Slot]] = {}
    for slot in store.slots:
        found.setdefault(slot.shard.url, []).append(slot)
    return found


def is_committed(view: "TeacherView", pass_id: str, span: Span) -> bool:
    """Whether a pass of a store has all of a span."""
    return pass_id in view.passes and all(view.log.commit_of(slot, pass_id) is not None for slot in span.slots)


def read_span(view: "TeacherView", output: str, span: Span) -> "SlotRead":
    """Rows of a span, checked as by `TeacherView.read`."""
    reads = [view.read(slot, output) for slot in span.slots]
    first = span.start - span.slots[0].start
    cut = slice(first, first + span.rows)

    def joined(name: str) -> "NDArray[Any]":
        return np.concatenate([getattr(read, name) for read in reads])[cut]

    return type(reads[0])(joined("rows"), joined("status"), joined("keys"), joined("labels"))


def transfer(
    view: "TeacherView",
    pass_id: str,
    span: Span,
    writer: "PassWriter",
    slot: "Slot",
    *,
    same_capacity: bool,
    keep: "NDArray[np.bool_] | None" = None,
    facts: "Mapping[str, Any]",
) -> None:
    """Write one slot of a store from what another store holds.

    Args:
        view: Where it comes from.
        pass_id: The pass there.
        span: The samples there.
        writer: Writes it.
        slot: The slot that is written.
        same_capacity: Whether both stores have the same rows a slot.
        keep: bool [n]; rows that are not kept become DROPPED. None keeps all.
        facts: Of this operation, for the commit's attempt.
    """
    attempt = {**facts, "from": [_origin(view, pass_id, part) for part in span.slots]}
    if keep is None and same_capacity and span.is_slot:
        source = span.slots[0]
        commit = view.log.commit_of(source, pass_id)
        assert commit is not None
        chunks = [read_object(view.store, StoredObject(record.key, record)) for record in commit.objects]
        writer.adopt(slot, chunks, commit, attempt)
        return
    reads = {output: read_span(view, output, span) for output in view.passes[pass_id].outputs}
    first = next(iter(reads.values()))
    lost = np.zeros(span.rows, np.bool_) if keep is None else ~keep
    rows = SlotRows(
        keys=first.keys,
        labels=first.labels,
        outputs={output: read.rows.astype(np.float32) for output, read in reads.items()},
        status={
            output: np.where(lost, RowStatus.DROPPED, read.status).astype(np.uint8) for output, read in reads.items()
        },
        source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
    )
    writer.write(slot, rows, attempt)


def _origin(view: "TeacherView", pass_id: str, slot: "Slot") -> dict[str, Any]:
    """Where a slot was computed: what its own commit says of that."""
    read = view.log.read_commit(slot, pass_id)
    attempt = {} if read is None else dict(read[0].attempt)
    return {
        "store_uuid": view.store.uuid,
        "slot": slot.index,
        "pass_digest": view.passes[pass_id].digest,
        "attempt": attempt,
    }
