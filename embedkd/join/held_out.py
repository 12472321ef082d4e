"""A validation part for data that has none: a share of the training split, the same for everyone who asks.

Which samples are held out is a function of the seed, their keys and their labels. Whatever is fitted to the rest has
never seen them.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import JoinError
from embedkd.join.samples import Samples
from embedkd.join.slots import Joined, SlotReader
from embedkd.records import key_hash
from embedkd.sources.fields import label as label_of
from embedkd.sources.reader import ShardStream, check_same
from embedkd.sources.roots import ShardSource, open_root
from embedkd.store.heads import ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from embedkd.join.joiner import Joiner
    from embedkd.store import Slot

_STREAM = b"held out"
# From a slot to keys (u64 [n]) and labels (int64 [n]) of all its samples, usable or not.
_Look = Callable[["Slot"], tuple["NDArray[np.uint64]", "NDArray[np.int64]"]]


def held_out(
    keys: "NDArray[np.uint64]", labels: "NDArray[np.integer]", *, share: float, seed: int
) -> "NDArray[np.bool_]":
    """Which samples are held out: of every class the share with the lowest ranks, at least 1 where 2 are there.

    Samples with one key stand together, so none is on both sides.

    Args:
        keys: u64 [n].
        labels: int [n]; samples without one (-1) are never held out: they could judge nothing.
        share: Of every class, above 0 and below 1.
        seed: Another one holds out others.

    Returns:
        bool [n].
    """
    chosen = np.zeros(len(keys), np.bool_)
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        different = np.unique(keys[members])
        different = different[np.argsort(ranks(different, seed, _STREAM), kind="stable")]
        wanted = max(round(share * len(different)), 1) if len(different) > 1 else 0
        chosen[members] = np.isin(keys[members], different[: min(wanted, len(different) - 1)])
    return chosen


def split_held_out(samples: Samples, *, share: float, seed: int) -> "tuple[ChosenSamples, ChosenSamples]":
    """Divide the samples of a training split; reads all keys and labels once.

    Which are held out is decided among all usable samples of its slots: where none is missing, it is the same whatever
    is joined to them.

    Returns:
        What stays for training, and what is held out.

    Raises:
        JoinError: There are too few samples to hold any out.
        SourceError: A shard or a label cannot be used.
        StoreError: The store's rows cannot be trusted.
    """
    joiner = samples.joiner()
    look = _in_shards(samples) if joiner is None else _in_store(joiner)
    read = [look(slot) for slot in samples.slots]
    if not read:
        raise JoinError("expected training samples to hold some out, got none")
    keys, labels = (np.concatenate(parts) for parts in zip(*read, strict=True))
    chosen = held_out(keys, labels, share=share, seed=seed)
    cut = np.split(chosen, np.cumsum([slot.rows for slot in samples.slots])[:-1])
    parts = [part[_usable(samples, joiner, at)] for at, part in enumerate(cut)]
    if not any(part.any() for part in parts):
        raise JoinError(
            f"expected 2 samples of a class to hold one out for validation, got {len(keys)} samples; add shards named "
            "val, or hold none out with --set train.val_fraction=0"
        )
    return ChosenSamples.of(samples, [~part for part in parts]), ChosenSamples.of(samples, parts)


def _usable(samples: Samples, joiner: "Joiner | None", at: int) -> "NDArray[np.int64]":
    """Which samples of a slot can be used, in order."""
    slot = samples.slots[at]
    if joiner is None or samples.counts[at] == slot.rows:
        return np.arange(slot.rows)
    return joiner.read(slot).ordinals


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

    def ordinals(self, at: int, usable: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """See `Samples.ordinals`."""
        return usable[self.numbers[at]]

    def reader(self) -> SlotReader:
        """A reader for one process."""
        facts = {field.name: getattr(self, field.name) for field in fields(Samples)}
        return _ChosenReader(Samples(**(facts | {"counts": self.usable})).reader(), self.numbers)


class _ChosenReader(SlotReader):
    """Counts only the chosen samples of each slot; another reader, of all usable ones, does the reading."""

    def __init__(self, whole: SlotReader, numbers: "tuple[NDArray[np.int64], ...]") -> None:
        self._whole = whole
        self._numbers = numbers

    def read_all(self, wanted: "Sequence[tuple[int, int]]", turn: int = 0) -> list[Joined]:
        """See `SlotReader.read_all`."""
        return self._whole.read_all([(at, int(self._numbers[at][number])) for at, number in wanted], turn)


def _in_store(joiner: "Joiner") -> _Look:
    def look(slot: "Slot") -> "tuple[NDArray[np.uint64], NDArray[np.int64]]":
        found = joiner.samples(slot)
        return found.keys, found.labels.astype(np.int64)

    return look


def _in_shards(samples: Samples) -> _Look:
    root = open_root(samples.root)

    def look(slot: "Slot") -> "tuple[NDArray[np.uint64], NDArray[np.int64]]":
        keys: list[int] = []
        labels: list[int] = []
        with ShardStream(ShardSource(root, slot.shard.url)) as stream:
            for sample in stream:
                keys.append(key_hash(sample.key))
                labels.append(label_of(sample.fields, f"sample {sample.key!r} of {slot.shard.url}"))
        check_same(slot.shard, stream.size_bytes, stream.blake2b, len(keys))
        chosen = slice(slot.start, slot.start + slot.rows)
        return np.array(keys[chosen], np.uint64), np.array(labels[chosen], np.int64)

    return look
