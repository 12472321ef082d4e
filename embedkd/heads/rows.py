"""Stored rows that a head is fitted to, in memory: so many at most, chosen by hash where there are more."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedkd.errors import StoreError
from embedkd.heads.logistic import Rows
from embedkd.records import RowStatus
from embedkd.store.heads import ranks
from embedkd.store.schema import MAX_DIM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedkd.records import Split
    from embedkd.store import Slot, TeacherView

_STREAM = b"head rows"


@dataclass(frozen=True)
class LabelledRows:
    """Rows of one split that have a label.

    Attributes:
        rows: The rows.
        keys: u64 [n] of their samples.
        left_out: Labelled rows that were not taken, since there are more than may be held in memory.
    """

    rows: Rows
    keys: "NDArray[np.uint64]"
    left_out: int

    def where(self, chosen: "NDArray[np.bool_]") -> "LabelledRows":
        """Those that are chosen; a copy."""
        return LabelledRows(self.rows.where(chosen), self.keys[chosen], self.left_out)


def count_classes(view: "TeacherView", output: str) -> int:
    """As many as have names, else one more than the largest label of the store.

    Raises:
        HoleError: A slot has no commit.
        StoreError: Nothing has a label, or there are more classes than an output may be wide.
    """
    names = view.store.class_names
    largest = max((view.committed(slot, output).max_label for slot in view.store.slots), default=-1)
    classes = 1 + largest if names is None else len(names)
    if not 1 <= classes <= MAX_DIM or largest < 0:
        raise StoreError(
            f"expected labels of 1 to {MAX_DIM} classes in {view.store.storage.url}, got {classes} classes "
            f"and {'no label' if largest < 0 else f'labels up to {largest}'}; a linear head learns from them"
        )
    return classes


def read_rows(
    view: "TeacherView", output: str, split: "Split", classes: int, *, max_rows: int, seed: int
) -> LabelledRows:
    """Rows of one split with status OK and a label; of more than `max_rows` those whose keys have the lowest hashes.

    Memory: at most ``max_rows`` decoded rows, and a slot. Which rows are taken is a function of seed
    and keys alone.

    Raises:
        HoleError: A slot has no commit.
        StoreError: Rows cannot be trusted.
    """
    slots = [slot for slot in view.store.slots if slot.shard.split == split]
    usable = {slot.index: _usable(view, slot, output) for slot in slots}
    total = sum(int(mask.sum()) for mask, _ in usable.values())
    limit = _limit([keys[mask] for mask, keys in usable.values()], max_rows, seed) if total > max_rows else None
    values, labels, keys = [], [], []
    for slot in slots:
        mask, _ = usable[slot.index]
        read = view.read(slot, output)
        if limit is not None:
            mask &= ranks(read.keys, seed, _STREAM) <= limit
        values.append(torch.from_numpy(read.stored.take(np.flatnonzero(mask)).decode()))
        labels.append(read.labels[mask].astype(np.int64))
        keys.append(read.keys[mask])
    spec = view.spec.output(output)
    assert spec is not None
    whole = torch.cat(values) if values else torch.empty(0, spec.dim)
    numbers = torch.from_numpy(np.concatenate(labels)) if labels else torch.empty(0, dtype=torch.int64)
    known = np.concatenate(keys) if keys else np.empty(0, np.uint64)
    return LabelledRows(Rows(whole, numbers, classes), known, total - len(numbers))


def _usable(view: "TeacherView", slot: "Slot", output: str) -> "tuple[NDArray[np.bool_], NDArray[np.uint64]]":
    samples = view.read_samples(slot, output)
    return (samples.labels >= 0) & (samples.status == RowStatus.OK), samples.keys


def _limit(keys: "list[NDArray[np.uint64]]", count: int, seed: int) -> np.uint64:
    """The hash of the last of `count` keys, in the order of their hashes."""
    hashes = np.concatenate([ranks(part, seed, _STREAM) for part in keys])
    return np.uint64(np.partition(hashes, count - 1)[count - 1])
