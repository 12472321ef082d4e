"""Stored targets in anyone's own webdataset pipeline: dicts and numpy arrays, no torch and no webdataset."""

from bisect import bisect_right
from collections import Counter
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedkd.errors import JoinError, UnknownNameError
from embedkd.join.recent import Recent
from embedkd.records import RowStatus, key_hash
from embedkd.store import TeacherView, open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from embedkd.records import Shard

Missing = Literal["error", "skip"]

_OPEN_SHARDS = 16
_KIND = "npy"


def attach_targets(
    store: str | Path, outputs: "Iterable[str]", *, teacher: str | None = None, on_missing: Missing = "error"
) -> "AttachTargets":
    """A stage that adds stored targets to the samples of a webdataset pipeline over the store's shards.

    ``wds.WebDataset(urls, shardshuffle=100).compose(attach_targets("store.zarr", ["cls"])).shuffle(5000)``

    Every sample gets ``sample["cls.npy"]``, its row [D] in the store's dtype: the name that such a field has in a tar.
    The row is found by the sample's key among the rows of its shard, so samples may have been filtered or shuffled
    before; put the stage before a shuffle of samples all the same, where it has one shard open at a time. A `decode`
    behind it needs ``partial=True``, since it takes nothing but bytes otherwise.

    Args:
        store: Path of the store.
        outputs: Outputs to attach.
        teacher: Which teacher of the store; None for the only one.
        on_missing: What becomes of a sample without a row in the store, or whose row has no embedding: an error, or it
            is skipped and counted in the stage's ``skipped``.

    Raises:
        UnknownNameError: The store has no such teacher or output.
        StoreError: The store cannot be opened.
    """
    view = open_store(store).teacher(teacher)
    names = tuple(outputs)
    unknown = [name for name in names if name not in view.outputs]
    if unknown or not names:
        raise UnknownNameError(f"output of {view.store.storage.url}", unknown[0] if unknown else "", view.outputs)
    return AttachTargets(view.store.storage.url, view.teacher_id, names, on_missing)


class AttachTargets:
    """See `attach_targets`. It pickles, and opens the store in the process that iterates.

    Attributes:
        skipped: Samples left out in this process, by reason.
    """

    def __init__(self, store: str, teacher_id: str, outputs: tuple[str, ...], on_missing: Missing) -> None:
        self._store = store
        self._teacher_id = teacher_id
        self._outputs = outputs
        self._on_missing = on_missing
        self.skipped: Counter[str] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in {"_view", "_tables", "_shards"}}

    def __call__(self, samples: "Iterable[dict[str, Any]]") -> "Iterator[dict[str, Any]]":
        """Samples with their targets.

        Args:
            samples: With ``__key__`` and ``__url__``, as webdataset makes them.

        Raises:
            JoinError: A sample's shard or key is not in the store, or its row has no embedding.
            StoreError: The store's rows cannot be trusted.
        """
        for sample in samples:
            rows, reason = self._rows_of(sample)
            if rows is not None:
                yield {**sample, **rows}
            elif self._on_missing == "skip":
                self.skipped[reason] += 1
            else:
                raise JoinError(
                    f"sample {sample['__key__']!r} of {sample['__url__']} {reason} in {self._store}; "
                    "precompute these shards, or leave such samples out with on_missing='skip'"
                )

    def _rows_of(self, sample: "Mapping[str, Any]") -> "tuple[dict[str, NDArray[Any]] | None, str]":
        """The sample's rows, or why there are none."""
        try:
            key, url = sample["__key__"], sample["__url__"]
        except KeyError as error:
            raise JoinError(f"expected samples with __key__ and __url__, got {sorted(sample)}") from error
        table = self._tables.get(self._shards.get(url))
        found = table.find(key)
        if found is None:
            return None, "has no row"
        if not table.usable[found]:
            return None, "has no embedding"
        rows = {f"{output}.{_KIND}": row for output, row in table.rows_at(found).items()}
        taken = sorted(rows.keys() & sample.keys())
        if taken:
            raise JoinError(f"sample {key!r} of {url} has a field {taken[0]} already; attach targets once")
        return rows, ""

    @cached_property
    def _view(self) -> TeacherView:
        return TeacherView(open_store(self._store), self._teacher_id)

    @cached_property
    def _tables(self) -> "Recent[Shard, _Table]":
        return Recent(lambda shard: _Table(self._view, shard, self._outputs), _OPEN_SHARDS)

    @cached_property
    def _shards(self) -> "Recent[str, Shard]":
        return Recent(lambda url: find_shard(url, self._view.store.shards), 1 << 16)


class _Table:
    """All rows of one shard, by key."""

    def __init__(self, view: TeacherView, shard: "Shard", outputs: tuple[str, ...]) -> None:
        slots = [slot for slot in view.store.slots if slot.shard == shard]
        reads = {output: [view.read(slot, output) for slot in slots] for output in outputs}
        self._stored = {output: [read.stored for read in parts] for output, parts in reads.items()}
        self._starts = [slot.start for slot in slots]
        status = [np.concatenate([read.status for read in parts]) for parts in reads.values()]
        self.usable = np.logical_and.reduce([part == RowStatus.OK for part in status])
        keys = np.concatenate([read.keys for read in reads[outputs[0]]])
        self._order = np.argsort(keys)
        self._keys = keys[self._order]
        if (self._keys[1:] == self._keys[:-1]).any():
            raise JoinError(f"two samples of {shard.url} have one key in {view.store.storage.url}")

    def find(self, key: str) -> int | None:
        """The row of a key."""
        wanted = np.uint64(key_hash(key))
        at = int(np.searchsorted(self._keys, wanted))
        return int(self._order[at]) if at < len(self._keys) and self._keys[at] == wanted else None

    def rows_at(self, found: int) -> "dict[str, NDArray[Any]]":
        """Output to row [D], decoded."""
        part = bisect_right(self._starts, found) - 1
        row = found - self._starts[part]
        return {output: stored[part][row].copy() for output, stored in self._stored.items()}


def find_shard(url: str, shards: "Iterable[Shard]") -> "Shard":
    """The one shard that a pipeline's url names: the url ends in the shard's relative path, or else in its file name.

    Where the url is a local file, its length must be the shard's.

    Raises:
        JoinError: No shard, or several, are called so, or the file has another length.
    """
    parts = _parts(url)
    named = [shard for shard in shards if parts[-1:] == _parts(shard.url)[-1:]]
    exact = [shard for shard in named if parts[-len(_parts(shard.url)) :] == _parts(shard.url)]
    found = exact or named
    if len(found) != 1:
        count = "several" if found else "none"
        raise JoinError(f"{url!r} names {count} of the store's shards; expected the tars that it was made from")
    path = Path(url.removeprefix("file:"))
    if path.is_file() and path.stat().st_size != found[0].size_bytes:
        raise JoinError(
            f"{url} has {path.stat().st_size} bytes, the store was made from one of {found[0].size_bytes}; "
            "restore it, or precompute a new store"
        )
    return found[0]


def _parts(url: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(url).parts if part != ".")
