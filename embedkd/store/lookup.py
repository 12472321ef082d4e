"""From keys to places in a store, and from places to rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import HoleError, StoreError
from embedkd.records import key_hash
from embedkd.store.ahead import read_ahead

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from embedkd.records import OutputSpec
    from embedkd.store.manifest import Slot
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.view import TeacherView

_AHEAD = 4  # slots whose keys are read at a time: 128 KiB each at most


@dataclass(frozen=True, eq=False)
class Lookup:
    """Where samples lie in a store: one entry a key that was asked for, in that order.

    Attributes:
        keys: u64 [K], the hashes of the keys.
        slot: i64 [K], number of the slot; -1 where no sample has the key.
        row: i64 [K], row within the slot; -1 where no sample has the key.
        count: i64 [K], how many samples have the key. Where it is above 1, `slot` and `row` are those of the first, in
            the order of the store.
    """

    keys: "NDArray[np.uint64]"
    slot: "NDArray[np.int64]"
    row: "NDArray[np.int64]"
    count: "NDArray[np.int64]"

    @property
    def found(self) -> "NDArray[np.bool_]":
        """Whether any sample has the key, bool [K]."""
        return self.count > 0

    def __len__(self) -> int:
        return len(self.keys)


def hashes_of(keys: "Iterable[str] | NDArray[np.uint64]") -> "NDArray[np.uint64]":
    """Keys as they are stored, u64 [K].

    Args:
        keys: Keys of samples, or their hashes.

    Raises:
        TypeError: They are neither.
    """
    if isinstance(keys, np.ndarray) and keys.dtype == np.uint64 and keys.ndim == 1:
        return keys
    if isinstance(keys, str):
        raise TypeError(f"expected a list of keys, got the one text {keys[:60]!r}; put it into a list")
    return np.array([_hash(key) for key in keys], np.uint64)


def _hash(key: object) -> int:
    if not isinstance(key, str):
        raise TypeError(f"expected texts or a uint64 array of hashes, got {type(key).__name__} {str(key)[:60]}")
    return key_hash(key)


def look_up(
    store: "EmbeddingStore", views: "Sequence[TeacherView]", keys: "NDArray[np.uint64]", *, allow_partial: bool
) -> Lookup:
    """Find keys by reading the keys of every slot once; memory is bounded by some slots and the keys asked for.

    Args:
        store: The store.
        views: Its teachers; any one's commit vouches for the keys of a slot.
        keys: u64 [K].
        allow_partial: Whether slots that no teacher has a commit of are passed over.

    Raises:
        HoleError: There is such a slot.
        IntegrityError: The keys of a slot are not the committed ones.
    """
    wanted, places = np.unique(keys, return_inverse=True)
    slot, row = np.full(len(wanted), -1, np.int64), np.full(len(wanted), -1, np.int64)
    count = np.zeros(len(wanted), np.int64)
    vouched = list(_vouched(store, views, allow_partial=allow_partial)) if len(wanted) else []
    found = read_ahead(lambda one: one[1].read_keys(one[0], one[2]), vouched, _AHEAD)
    for (where, _, _), theirs in zip(vouched, found, strict=True):
        at = np.minimum(np.searchsorted(wanted, theirs), len(wanted) - 1)
        rows = np.flatnonzero(wanted[at] == theirs)
        np.add.at(count, at[rows], 1)
        hit, first = np.unique(at[rows], return_index=True)
        new = slot[hit] < 0
        slot[hit[new]], row[hit[new]] = where.index, rows[first[new]]
    return Lookup(keys, slot[places], row[places], count[places])


def take(view: "TeacherView", where: Lookup, output: "OutputSpec", *, allow_missing: bool) -> "NDArray[Any]":
    """The rows of samples that were looked up, [K, D], float16 where they are stored so, else float32.

    Each slot is read once.

    Raises:
        HoleError: A key was not found, or a slot has no commit.
        StoreError: The samples were looked up in another store.
    """
    if not allow_missing and not where.found.all():
        missing, url = np.flatnonzero(~where.found), view.store.storage.url
        raise HoleError(
            f"{url} lacks {len(missing)} of these {len(where)} keys, the first is number {missing[0]}; "
            "leave them out, or have NaN for them with allow_missing=True"
        )
    order = np.argsort(where.slot, kind="stable")
    order = order[where.found[order]]
    slots, starts = np.unique(where.slot[order], return_index=True)
    groups = np.split(order, starts[1:]) if len(slots) else []
    rows = np.full((len(where), output.dim), np.nan, np.float16 if output.encoding == "float16" else np.float32)
    reads = read_ahead(lambda index: view.read(index, output.name), slots.tolist())
    for group, read in zip(groups, reads, strict=True):
        picks = where.row[group]
        if picks.max() >= len(read.keys) or not np.array_equal(read.keys[picks], where.keys[group]):
            raise StoreError(f"these samples were looked up in another store than {view.store.storage.url}")
        rows[group] = read.stored.take(picks).decode()
    return rows


def _vouched(
    store: "EmbeddingStore", views: "Sequence[TeacherView]", *, allow_partial: bool
) -> "Iterator[tuple[Slot, TeacherView, str]]":
    """For each slot a teacher and an output whose commit vouches for its keys."""
    for slot in store.slots:
        pairs = ((view, output) for view in views for output in view.outputs)
        found = next(((view, output) for view, output in pairs if view.commit(slot, output) is not None), None)
        if found is not None:
            yield slot, *found
        elif not allow_partial:
            raise HoleError(
                f"slot {slot.index} ({slot.shard.url}) of {store.storage.url} has no keys yet: run embedkd precompute, "
                "or look up in what is there with allow_partial=True"
            )
