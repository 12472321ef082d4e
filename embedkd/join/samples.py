"""Which samples take part: those of one split that have what the losses read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from embedkd.errors import JoinError
from embedkd.join.agreement import common_shards, lead_among
from embedkd.join.joiner import Joiner
from embedkd.join.order import BLOCK_ROWS, MAX_LANES
from embedkd.join.slots import SlotReader, is_elsewhere
from embedkd.join.targets import Places, Target
from embedkd.records import DecodePolicy, Shard, Split, ViewSpec
from embedkd.store import Slot, SlotCounts, TeacherView
from embedkd.store.heads import is_derived

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

UNLABELLED: Final = "without a label"


@dataclass(frozen=True)
class Samples:
    """Which samples take part: slots of one split, where their shards lie, and what is joined to them.

    Attributes:
        slots: The slots, of the store that leads.
        counts: Usable samples of each.
        left_out: Samples that cannot be used, by reason.
        root: Where the shards lie.
        policy: How images are decoded.
        store: Path of the store that leads; None joins nothing.
        teacher_id: A teacher in that store.
        targets: What is joined.
        labels_needed: Whether samples without a label are left out, or refused where there is no store to tell.
        views: Which part of each image belongs to the targets, epoch after epoch; none for the whole image.
    """

    slots: tuple[Slot, ...]
    counts: tuple[int, ...]
    left_out: Mapping[str, int]
    root: str
    policy: DecodePolicy
    store: str | None = None
    teacher_id: str | None = None
    targets: tuple[Target, ...] = ()
    labels_needed: bool = True
    views: tuple[ViewSpec, ...] = ()

    @property
    def rows(self) -> int:
        """Samples an epoch."""
        return sum(self.counts)

    def reader(self) -> SlotReader:
        """A reader for one process."""
        joiner = self.joiner()
        if joiner is not None and self.slots:
            joiner.prepare(self.slots[0])
        return SlotReader(
            self.slots,
            self.counts,
            self.root,
            None if joiner is None else joiner.read,
            labels_needed=self.labels_needed,
            open_slots=open_slots(self.counts),
            at_once=is_elsewhere(self.root, self.store, *(target.store for target in self.targets)),
        )

    def ordinals(self, at: int, usable: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """Which samples of a slot take part, in order.

        Args:
            at: Which of the slots.
            usable: int64, samples of the slot that could be used.
        """
        return usable

    def joiner(self) -> Joiner | None:
        """What reads the stores, for one process; None where there is none."""
        if self.store is None or self.teacher_id is None:
            return None
        return Joiner(self.store, self.teacher_id, self.targets, labels_needed=self.labels_needed)


@dataclass(frozen=True)
class Wanted:
    """What is wanted of one teacher.

    Attributes:
        view: Its part of its store.
        outputs: Name of a target to the output that gives its rows.
        views: Stored views of it, whose rows are read in place of its own; none reads its own.
    """

    view: TeacherView
    outputs: Mapping[str, str] = field(default_factory=dict)
    views: tuple[TeacherView, ...] = ()

    def counted(self) -> "Iterator[SlotCounts]":
        """Of everything that is read; of the first output where nothing is."""
        for output in self.outputs.values() or self.view.outputs[:1]:
            for view in self.views if self.outputs and self.views else (self.view,):
                yield view.counts(output)

    def targets(self) -> "Iterator[Target]":
        """What is joined."""
        ids = tuple(view.teacher_id for view in self.views or (self.view,))
        for name, output in self.outputs.items():
            yield Target(name, self.view.store.storage.url, ids, output)


def stored_samples(
    view: TeacherView,
    split: Split,
    outputs: Sequence[str] = (),
    *,
    data: str | None = None,
    labels_needed: bool = True,
    allow_partial: bool = False,
) -> Samples:
    """The samples of one split of a store's shards, joined with outputs of one teacher under their own names.

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
    wanted = Wanted(view, {output: output for output in outputs})
    return joined_samples([wanted], split, data=data, labels_needed=labels_needed, allow_partial=allow_partial)


def joined_samples(
    wanted: Sequence[Wanted],
    split: Split,
    *,
    data: str | None = None,
    labels_needed: bool = True,
    allow_partial: bool = False,
    allow_unlabelled: bool = False,
) -> Samples:
    """The samples of one split that all of some stores have, joined with rows of several teachers.

    The slots, and so the order of every epoch, are those of one of the stores; which one depends on what they hold and
    not on which is named first.

    Args:
        wanted: What is wanted of each teacher, of at least one.
        split: Which split.
        data: Folder or URL where the shards lie, if it is not where the stores remember them.
        labels_needed: Whether samples without a label are left out.
        allow_partial: Leave out what is not in all stores or has no target or label, instead of refusing.
        allow_unlabelled: Leave out what has no label, instead of refusing.

    Raises:
        JoinError: Some samples have no target or no label, or the stores were made of other data; how many, why, and
            what to do.
        UnknownNameError: A teacher has no such output.
    """
    stores = [one.view.store for one in wanted]
    shared, left_out = common_shards(stores, split, allow_partial=allow_partial)
    lead = wanted[lead_among(stores, shared)]
    slots = [slot for slot in lead.view.store.slots if slot.shard.split == split and slot.shard in shared]
    samples = Samples(
        slots=(),
        counts=(),
        left_out=left_out,
        root=data or lead.view.store.data_root,
        policy=lead.view.store.policy,
        store=lead.view.store.storage.url,
        teacher_id=lead.view.teacher_id,
        targets=tuple(target for one in wanted for target in one.targets()),
        labels_needed=labels_needed,
        views=_views_of(wanted),
    )
    counter = _Counter(samples, wanted, left_out)
    counts = [counter.usable(slot) for slot in slots]
    refused = {} if allow_partial else {k: v for k, v in left_out.items() if not (allow_unlabelled and k == UNLABELLED)}
    if refused:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items()))
        places = " and ".join(dict.fromkeys(store.storage.url for store in stores))
        begun = "embedkd precompute, and then embedkd head," if any(map(_is_head, wanted)) else "embedkd precompute"
        remedy = f"run {begun} to its end, or " if set(refused) != {UNLABELLED} else ""
        raise JoinError(
            f"{sum(refused.values())} of {sum(s.rows for s in slots)} {split} samples of {places} "
            f"cannot be used ({reasons}); {remedy}leave them out with --allow-partial"
        )
    kept = [i for i, count in enumerate(counts) if count]
    return replace(samples, slots=tuple(slots[i] for i in kept), counts=tuple(counts[i] for i in kept))


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


def _views_of(wanted: Sequence[Wanted]) -> tuple[ViewSpec, ...]:
    """The views that all rows are of.

    Raises:
        JoinError: Teachers have other views, so that no part of an image belongs to the rows of both.
    """
    found = [(one, tuple(view.spec.view for view in one.views)) for one in wanted if one.outputs]
    for one, views in found[1:]:
        if views != found[0][1]:
            first = found[0][0].view.spec.name
            raise JoinError(
                f"expected one set of stored views of all teachers, got {_shown(found[0][1])} of {first} and "
                f"{_shown(views)} of {one.view.spec.name}; precompute both with the same --views (for a head run "
                "embedkd head again), or take fewer with --set train.views=NUMBER"
            )
    return tuple(view for view in found[0][1] if view is not None) if found else ()


def _is_head(wanted: Wanted) -> bool:
    return is_derived(wanted.view.spec)


def _shown(views: Sequence[ViewSpec | None]) -> str:
    first = views[0] if views else None
    if first is None:
        return "none"
    return f"{len(views)} (seed {first.seed}, crops from {first.min_crop_area:g} of the area)"


class _Counter:
    """Counts the usable samples of slots; reads no rows where the commits say how many there are.

    Args:
        samples: How they are joined.
        wanted: What is wanted of each teacher.
        left_out: Counts what cannot be used, by reason.
    """

    def __init__(self, samples: Samples, wanted: Sequence[Wanted], left_out: dict[str, int]) -> None:
        self._samples = samples
        self._left_out = left_out
        self._joiner: Joiner | None = None
        self._counted: list[tuple[Places, SlotCounts]] = []
        for one in wanted:
            places = Places(one.view.store.slots)
            self._counted += [(places, counts) for counts in one.counted()]

    def usable(self, slot: Slot) -> int:
        """Usable samples of a slot of the store that leads."""
        parts = [(places.parts(slot), counts) for places, counts in self._counted]
        at = [(np.array([part.slot.index for part in found]), found, counts) for found, counts in parts]
        if not all(counts.committed[index].all() for index, _, counts in at):
            self._leave_out("not precomputed", slot.rows)
            return 0
        rows = [(sum(part.slot.rows for part in found), found) for _, found, _ in at]
        ok = [int(counts.ok[index].sum()) for index, _, counts in at]
        labelled = not self._samples.labels_needed or all(
            int(counts.labelled[index].sum()) == there for (index, _, counts), (there, _) in zip(at, rows, strict=True)
        )
        partial = [i for i, (there, _) in enumerate(rows) if ok[i] != there]
        if labelled and not partial:
            return slot.rows
        if labelled and len(partial) == 1 and all(part.is_whole for part in rows[partial[0]][1]):
            usable, unlabelled = ok[partial[0]], 0  # of several outputs, other samples may be missing in each
        else:
            usable, unlabelled = self._read(slot)
        self._leave_out(UNLABELLED, unlabelled)
        self._leave_out("without an embedding", slot.rows - usable - unlabelled)
        return usable

    def _read(self, slot: Slot) -> tuple[int, int]:
        """Samples that can be used, and those that could be if they had a label."""
        self._joiner = self._joiner or self._samples.joiner()
        assert self._joiner is not None
        found = self._joiner.read(slot)
        return len(found.ordinals), found.unlabelled

    def _leave_out(self, reason: str, rows: int) -> None:
        if rows:
            self._left_out[reason] = self._left_out.get(reason, 0) + rows
