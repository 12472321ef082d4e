"""A validation part for data that has none: a share of the training split, the same for everyone who asks.

Which samples are held out is a function of the seed, their keys and their labels. Whatever is fitted to the rest has
never seen them.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import JoinError
from embedkd.join.files import ShardFile
from embedkd.join.samples import Samples
from embedkd.join.slots import Joined, SlotReader, SlotTargets
from embedkd.records import key_hash
from embedkd.sources.shards import shard_path
from embedkd.store import TeacherView, open_store
from embedkd.store.heads import ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedkd.store import Slot

_STREAM = b"held out"


def held_out(
    keys: "NDArray[np.uint64]", labels: "NDArray[np.integer]", *, share: float, seed: int
) -> "NDArray[np.bool_]":
    """Which samples are held out: of every class the share with the lowest ranks, at least 1 where 2 are there.

    Samples with one key stand together, so none is on both sides.

    Args:
        keys: u64 [n].
        labels: int [n]; samples without one (-1) are a class of their own here.
        share: Of every class, above 0 and below 1.
        seed: Another one holds out others.

    Returns:
        bool [n].
    """
    chosen = np.zeros(len(keys), np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        different = np.unique(keys[members])
        different = different[np.argsort(ranks(different, seed, _STREAM), kind="stable")]
        wanted = max(round(share * len(different)), 1) if len(different) > 1 else 0
        chosen[members] = np.isin(keys[members], different[: min(wanted, len(different) - 1)])
    return chosen


def split_held_out(samples: Samples, *, share: float, seed: int) -> "tuple[ChosenSamples, ChosenSamples]":
    """Divide the samples of a training split; reads all keys and labels once.

    Returns:
        What stays for training, and what is held out.

    Raises:
        JoinError: There are too few samples to hold any out.
        SourceError: A shard or a label cannot be used.
        StoreError: The store's rows cannot be trusted.
    """
    read = [_keys_and_labels(samples, at) for at in range(len(samples.slots))]
    if not read:
        raise JoinError("expected training samples to hold some out, got none")
    keys, labels = (np.concatenate(parts) for parts in zip(*read, strict=True))
    chosen = held_out(keys.astype(np.uint64), labels.astype(np.int64), share=share, seed=seed)
    if not chosen.any():
        raise JoinError(f"expected 2 samples of a class to hold one out, got {len(keys)} samples; add shards named val")
    parts = np.split(chosen, np.cumsum(samples.counts)[:-1])
    return ChosenSamples.of(samples, [~part for part in parts]), ChosenSamples.of(samples, parts)


@dataclass(frozen=True)
class ChosenSamples(Samples):
    """Some of the usable samples of each slot.

    Attributes:
        usable: Samples of each slot that could be used.
        numbers: For each slot, int64 [count], which of these take part, in order.
    """

    usable: tuple[int, ...] = ()
    numbers: "tuple[NDArray[np.int64], ...]" = ()

    @classmethod
    def of(cls, samples: Samples, masks: "list[NDArray[np.bool_]]") -> "ChosenSamples":
        """Samples where the masks, bool [count] for each slot, are true."""
        facts = {field.name: getattr(samples, field.name) for field in fields(Samples)}
        numbers = tuple(np.flatnonzero(mask) for mask in masks)
        facts |= {"counts": tuple(len(chosen) for chosen in numbers), "usable": samples.counts, "numbers": numbers}
        return cls(**facts)

    def reader(self) -> SlotReader:
        """A reader for one process."""
        facts = {field.name: getattr(self, field.name) for field in fields(Samples)}
        return _ChosenReader(Samples(**(facts | {"counts": self.usable})).reader(), self.numbers)


class _ChosenReader(SlotReader):
    """Counts only the chosen samples of each slot; another reader, of all usable ones, does the reading."""

    def __init__(self, whole: SlotReader, numbers: "tuple[NDArray[np.int64], ...]") -> None:
        self._whole = whole
        self._numbers = numbers

    def read(self, at: int, number: int) -> Joined:
        """See `SlotReader.read`."""
        return self._whole.read(at, int(self._numbers[at][number]))


def _keys_and_labels(samples: Samples, at: int) -> "tuple[NDArray[np.uint64], NDArray[np.int64]]":
    """Keys and labels of a slot's usable samples."""
    slot = samples.slots[at]
    if samples.store is None or samples.teacher_id is None:
        return _from_shard(samples, slot)
    view = TeacherView(open_store(samples.store), samples.teacher_id)
    found = SlotTargets.read(view, slot, samples.outputs, labels_needed=samples.labels_needed)
    return found.keys[found.ordinals], found.labels[found.ordinals].astype(np.int64)


def _from_shard(samples: Samples, slot: "Slot") -> "tuple[NDArray[np.uint64], NDArray[np.int64]]":
    file = ShardFile(slot.shard, shard_path(samples.root, slot.shard.url))
    ordinals = range(slot.start, slot.start + slot.rows)
    keys = np.array([key_hash(file.keys[i]) for i in ordinals], np.uint64)
    return keys, np.array([file.label(i) for i in ordinals], np.int64)
