"""Slots on their way from one store into another: byte for byte where both cut alike, else encoded again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.records import RowStatus, blake2b_hex, canonical_json
from embedkd.store.inventory import StoredObject, read_object
from embedkd.store.measured import MeasuredError
from embedkd.store.quantising import Encoded, encode
from embedkd.store.view import SlotRead

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from embedkd.store.manifest import Slot
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.view import TeacherView
    from embedkd.store.writer import PassWriter


_SHOWN_ORIGINS = 8  # slots of which a commit says where they were computed: an attempt is bounded
_MAX_ORIGIN_BYTES = 4 << 10


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

    def places(self, slot: "Slot") -> slice:
        """Where the samples of one of its slots stand among those of the span."""
        first = max(slot.start - self.start, 0)
        return slice(first, min(slot.start + slot.rows - self.start, self.rows))

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

    stored = reads[0].stored.joined([read.stored for read in reads]).take(cut)
    return SlotRead(stored, joined("status"), joined("keys"), joined("labels"), joined("places"))


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
    origins = [_origin(view, pass_id, part) for part in span.slots[:_SHOWN_ORIGINS]]
    attempt = {**facts, "from": origins, "slots": len(span.slots)}
    if keep is None and same_capacity and span.is_slot:
        source = span.slots[0]
        commit = view.log.commit_of(source, pass_id)
        assert commit is not None
        chunks = [read_object(view.store, StoredObject(record.key, record)) for record in commit.objects]
        writer.adopt(slot, chunks, commit, attempt)
        return
    reads = {output: read_span(view, output, span) for output in view.passes[pass_id].outputs}
    lost = np.zeros(span.rows, np.bool_) if keep is None else ~keep
    outputs = {output: _encoded(view, output, span, read, lost) for output, read in reads.items()}
    writer.write_encoded(slot, next(iter(reads.values())), outputs, attempt)


def _encoded(view: "TeacherView", output: str, span: Span, read: "SlotRead", lost: "NDArray[np.bool_]") -> Encoded:
    """Rows of a span as one slot, but for those that are lost.

    What is stored is taken over as it is, and with it what its encoding had lost. Only int8 rows of several slots,
    which have several scales, are encoded again; what that loses comes on top.
    """
    status = np.where(lost, RowStatus.DROPPED, read.status).astype(np.uint8)
    rows, ok = read.stored.without(lost) if lost.any() else read.stored, status == RowStatus.OK
    error = MeasuredError.joined(
        view.committed(slot, output).error[output].of_some(int(ok[span.places(slot)].sum())) for slot in span.slots
    )
    if rows.is_storable:
        return Encoded(rows, status, error)
    spec = view.spec.output(output)
    assert spec is not None
    said, places = rows.decode().astype(np.float32), np.flatnonzero(ok)
    again = encode(spec, said, status)
    return Encoded(again.rows, again.status, error.followed_by(again.rows.take(places).distances(said[places])))


def _origin(view: "TeacherView", pass_id: str, slot: "Slot") -> dict[str, Any]:
    """Where a slot was computed: what its own commit says of that."""
    read = view.log.read_commit(slot, pass_id)
    attempt = {} if read is None else dict(read[0].attempt)
    facts = canonical_json(attempt)
    if len(facts) > _MAX_ORIGIN_BYTES:  # they nest: stores are merged again and again
        attempt = {"digest": blake2b_hex(facts)}
    return {
        "store_uuid": view.store.uuid,
        "slot": slot.index,
        "pass_digest": view.passes[pass_id].digest,
        "attempt": attempt,
    }
