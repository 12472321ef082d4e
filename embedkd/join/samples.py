"""Which samples take part: those of one split that have what the losses read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from embedkd.errors import JoinError
from embedkd.join.order import BLOCK_ROWS, MAX_LANES
from embedkd.join.slots import SlotReader, SlotTargets, is_elsewhere
from embedkd.records import DecodePolicy, Shard, Split
from embedkd.store import Slot, SlotCounts, TeacherView, open_store


@dataclass(frozen=True)
class Samples:
    """Which samples take part: slots of one split, where their shards lie, and what is joined to them.

    Attributes:
        slots: The slots.
        counts: Usable samples of each.
        left_out: Samples that cannot be used, by reason.
        root: Where the shards lie.
        policy: How images are decoded.
        store: Path of the store; None joins nothing.
        teacher_id: The teacher in the store.
        outputs: Outputs that are joined.
        labels_needed: Whether samples without a label are left out, or refused where there is no store to tell.
    """

    slots: tuple[Slot, ...]
    counts: tuple[int, ...]
    left_out: Mapping[str, int]
    root: str
    policy: DecodePolicy
    store: str | None = None
    teacher_id: str | None = None
    outputs: tuple[str, ...] = ()
    labels_needed: bool = True

    @property
    def rows(self) -> int:
        """Samples an epoch."""
        return sum(self.counts)

    def reader(self) -> SlotReader:
        """A reader for one process."""
        return SlotReader(
            self.slots,
            self.counts,
            self.root,
            None if self.store is None else self._targets_of(),
            labels_needed=self.labels_needed,
            open_slots=open_slots(self.counts),
            at_once=is_elsewhere(self.root, self.store),
        )

    def _targets_of(self) -> Callable[[Slot], SlotTargets]:
        assert self.store is not None
        assert self.teacher_id is not None
        view = TeacherView(open_store(self.store), self.teacher_id)
        for output in self.outputs or view.outputs[:1]:
            view.committed(self.slots[0], output)  # reads what slots share, before several threads want it at once
        return lambda slot: SlotTargets.read(view, slot, self.outputs, labels_needed=self.labels_needed)


def stored_samples(
    view: TeacherView,
    split: Split,
    outputs: Sequence[str] = (),
    *,
    data: str | None = None,
    labels_needed: bool = True,
    allow_partial: bool = False,
) -> Samples:
    """The samples of one split of a store's shards.

    Args:
        view: The teacher's part of the store.
        split: Which split.
        outputs: Outputs to join; with none, samples are left out where the teacher's first output is missing.
        data: Folder or URL where the shards lie, if it is not where the store remembers them.
        labels_needed: Whether samples without a label are left out.
        allow_partial: Leave out what has no target, instead of refusing.

    Raises:
        JoinError: Some samples have no target or no label; how many, why, and what to do.
        UnknownNameError: The teacher has no such output.
    """
    slots = tuple(slot for slot in view.store.slots if slot.shard.split == split)
    left_out: dict[str, int] = {}
    counted = [view.counts(output) for output in (tuple(outputs) or view.outputs[:1])]
    counts = [_usable(view, slot, tuple(outputs), counted, left_out, labels_needed=labels_needed) for slot in slots]
    if left_out and not allow_partial:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        raise JoinError(
            f"{sum(left_out.values())} of {sum(s.rows for s in slots)} {split} samples of {view.store.storage.url} "
            f"cannot be used ({reasons}); run embedkd precompute to its end, or leave them out with --allow-partial"
        )
    kept = [i for i, count in enumerate(counts) if count]
    return Samples(
        slots=tuple(slots[i] for i in kept),
        counts=tuple(counts[i] for i in kept),
        left_out=left_out,
        root=data or view.store.data_root,
        policy=view.store.policy,
        store=view.store.storage.url,
        teacher_id=view.teacher_id,
        outputs=tuple(outputs),
        labels_needed=labels_needed,
    )


def shard_samples(
    shards: Sequence[Shard], root: str, policy: DecodePolicy | None = None, *, labels_needed: bool = False
) -> Samples:
    """All samples of shards, joined with nothing; labels are read from the tars.

    Args:
        shards: As their index or a scan describes them.
        root: Where they lie.
        policy: How images are decoded.
        labels_needed: Whether reading a sample without a label raises a JoinError; else its label is -1.
    """
    slots = tuple(Slot(i, shard, 0, shard.rows) for i, shard in enumerate(shards) if shard.rows)
    return Samples(slots, tuple(s.rows for s in slots), {}, root, policy or DecodePolicy(), labels_needed=labels_needed)


def open_slots(counts: Sequence[int]) -> int:
    """How many slots a reader comes back to: those that the blocks of all lanes lie in, by their mean length.

    >>> open_slots([10_000] * 40_000), open_slots([1_000] * 500), open_slots([100] * 7)
    (16, 48, 7)
    """
    in_block = -(-BLOCK_ROWS * len(counts) // max(sum(counts), 1)) + 1  # a lane's block, and what it is cut by
    return max(1, min(MAX_LANES * in_block, len(counts)))


def _usable(
    view: TeacherView,
    slot: Slot,
    outputs: tuple[str, ...],
    counted: Sequence[SlotCounts],
    left_out: dict[str, int],
    *,
    labels_needed: bool,
) -> int:
    """Usable samples of a slot; reads no rows where the counts of its commits say how many there are."""
    at = slot.index
    if not all(counts.committed[at] for counts in counted):
        left_out["not precomputed"] = left_out.get("not precomputed", 0) + slot.rows
        return 0
    partial = [int(counts.ok[at]) for counts in counted if counts.ok[at] != slot.rows]
    labelled = not labels_needed or all(counts.labelled[at] == slot.rows for counts in counted)
    if labelled and len(partial) <= 1:  # of several outputs, other samples may be missing in each
        usable = partial[0] if partial else slot.rows
    else:
        usable = len(SlotTargets.read(view, slot, outputs, labels_needed=labels_needed).ordinals)
    if usable < slot.rows:
        reason = "without an embedding or a label" if labels_needed else "without an embedding"
        left_out[reason] = left_out.get(reason, 0) + slot.rows - usable
    return usable
