"""Shards from a folder, a CSV or CIFAR archives: plain tars with mixed classes, and an index that describes them.

The same source, options and version give the same bytes: image files are copied as they are, headers carry no time and
no owner, and the order is a function of seed and name. Shards become visible whole; ``index.json`` comes last.
"""

import hashlib
import os
import tarfile
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError, SourceError, StorageError
from embedkd.records import SPLITS, Shard, Split, canonical_json
from embedkd.seeding import stream_seed
from embedkd.sources.cifar import read_cifar
from embedkd.sources.fields import CAPTION_SUFFIX, LABEL_SUFFIX, NO_LABEL
from embedkd.sources.index_json import INDEX_NAME
from embedkd.sources.items import PackItem, PackSource, read_csv, read_folder
from embedkd.sources.keys import sample_keys
from embedkd.sources.splits import stratified_splits
from embedkd.storage import make_folder, sync_folder, unnamed_file, write_all, write_atomic, write_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ROWS_PER_SHARD = 10_000
_ARCHIVES = (".tar.gz", ".tgz", ".tar")


@dataclass(frozen=True)
class PackedData:
    """What was written.

    Attributes:
        folder: Where the shards and their index are.
        classes: Class names in label order.
        shards: As the index lists them; urls are file names.
        ignored: Files of the source that are no images.
    """

    folder: "Path"
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    ignored: int = 0

    def rows(self, split: Split) -> int:
        """Number of samples in one split."""
        return sum(shard.rows for shard in self.shards if shard.split == split)


def pack(
    source: "Path",
    out: "Path",
    *,
    rows_per_shard: int = ROWS_PER_SHARD,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    on_shard: "Callable[[Shard], None] | None" = None,
) -> PackedData:
    """Pack a folder of class folders, a CSV, or a CIFAR-10/100 "python version" archive.

    Args:
        source: The folder, the ``.csv`` or the ``.tar.gz``.
        out: A folder that does not exist or is empty.
        rows_per_shard: Most samples in one shard; the shards of a split are equal to one sample.
        val: Share of each class for validation, where the source has no splits of its own.
        test: Share of each class for the test, likewise.
        seed: Decides the shuffle and the split.
        on_shard: Called after each shard, for progress.

    Raises:
        SourceError: The source cannot be packed; nothing is left in `out`.
        ConfigError: The shares or `rows_per_shard` make no sense.
        StorageError: `out` is not empty or cannot be written.
    """
    _check_empty(out)
    found = read_source(source)
    items = _with_splits(source, found.items, val=val, test=test, seed=seed)
    packed = write_shards(
        items, out, classes=found.classes, rows_per_shard=rows_per_shard, seed=seed, on_shard=on_shard
    )
    return replace(packed, ignored=found.ignored)


def read_source(source: "Path") -> PackSource:
    """The samples of a source of any kind.

    Raises:
        SourceError: It does not exist, is of no known kind, or its content is not as its kind expects.
    """
    name = source.name.lower()
    if source.is_dir():
        return read_folder(source)
    if not source.is_file():
        raise SourceError(f"there is no {source}; expected a folder of class folders, a CSV or a CIFAR .tar.gz")
    if name.endswith(".csv"):
        return read_csv(source)
    if name.endswith(_ARCHIVES):
        return read_cifar(source)
    raise SourceError(f"cannot pack {source}; expected a folder of class folders, a .csv or a CIFAR .tar.gz")


def write_shards(
    items: "Sequence[PackItem]",
    out: "Path",
    *,
    classes: "Sequence[str]",
    rows_per_shard: int = ROWS_PER_SHARD,
    seed: int = 0,
    on_shard: "Callable[[Shard], None] | None" = None,
) -> PackedData:
    """Write items, each with its split, as ``<split>-<number>.tar`` and an ``index.json``.

    Raises:
        SourceError: An item cannot be read, or two share a name; nothing is left in `out`.
        ConfigError: `rows_per_shard` is below 1.
        StorageError: `out` is not empty or cannot be written.
    """
    if rows_per_shard < 1:
        raise ConfigError(f"expected at least 1 row a shard, got {rows_per_shard}")
    _check_empty(out)
    keys = sample_keys([item.name for item in items])
    shards: list[Shard] = []
    try:
        for name, split, rows in _plan(items, rows_per_shard, seed):
            shards.append(_write_shard(out / name, split, [(keys[item.name], item) for item in rows]))
            if on_shard is not None:
                on_shard(shards[-1])
        document = {"format": 1, "classes": list(classes), "shards": [asdict(shard) for shard in shards]}
        write_atomic(out / INDEX_NAME, canonical_json(document))
    except BaseException:
        for shard in shards:
            (out / shard.url).unlink(missing_ok=True)
        raise
    return PackedData(out, tuple(classes), tuple(shards))


def _with_splits(
    source: "Path", items: "Sequence[PackItem]", *, val: float, test: float, seed: int
) -> "Sequence[PackItem]":
    given = [item for item in items if item.split is not None]
    if len(given) == len(items):
        return items
    if given:
        raise SourceError(f"{source} gives {len(given)} of {len(items)} samples a split; expected all or none")
    names, labels = [item.name for item in items], [item.label for item in items]
    splits = stratified_splits(names, labels, val=val, test=test, seed=seed)
    return [replace(item, split=split) for item, split in zip(items, splits, strict=True)]


def _check_empty(out: "Path") -> None:
    if out.is_dir():
        first = next(out.iterdir(), None)
        if first is not None:
            raise StorageError(f"{out} is not empty (it holds {first.name}); name a new folder, or empty this one")
    elif out.exists():
        raise StorageError(f"{out} is a file; name a new folder")


def _plan(
    items: "Sequence[PackItem]", rows_per_shard: int, seed: int
) -> "Iterator[tuple[str, Split, Sequence[PackItem]]]":
    """File name, split and samples of each shard, in the order of the index."""
    for split in SPLITS:
        rows = [item for item in items if item.split == split]
        rows.sort(key=lambda item: (stream_seed(seed, "pack", item.name), item.name))
        count = -(-len(rows) // rows_per_shard)
        for number in range(count):
            yield (
                f"{split}-{number:06d}.tar",
                split,
                rows[number * len(rows) // count : (number + 1) * len(rows) // count],
            )


def _write_shard(path: "Path", split: Split, rows: "Sequence[tuple[str, PackItem]]") -> Shard:
    digest = hashlib.blake2b(digest_size=32)
    size_bytes = 0
    try:
        make_folder(path.parent)
        with unnamed_file(path) as (handle, name_it):
            for block in _blocks(rows):
                write_all(handle, block)
                digest.update(block)
                size_bytes += len(block)
            os.fsync(handle)
            name_it()
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    return Shard(path.name, split, size_bytes, len(rows), digest.hexdigest())


def _blocks(rows: "Sequence[tuple[str, PackItem]]") -> "Iterator[bytes]":
    """The bytes of a tar, one sample at a time."""
    size = 0
    for key, item in rows:
        block = _member(f"{key}.{item.suffix}", item.read())
        if item.label != NO_LABEL:
            block += _member(f"{key}.{LABEL_SUFFIX}", b"%d" % item.label)
        if item.caption is not None:
            block += _member(f"{key}.{CAPTION_SUFFIX}", item.caption.encode())
        size += len(block)
        yield block
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(size + end) % tarfile.RECORDSIZE)


def _member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
