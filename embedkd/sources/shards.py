"""Which shards there are: folders, URLs, globs, braces and the embedded data set, and what their index says."""

import os
import re
import stat
from glob import glob
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from embedkd.errors import ShardError
from embedkd.records import SPLITS, Shard, Split
from embedkd.sources.index import index_shard
from embedkd.sources.listing import Listing, compared, indexed_folder
from embedkd.sources.patterns import expand_braces, has_wildcard
from embedkd.sources.remote import list_remote, names_shards
from embedkd.sources.roots import SYMBOLIC, ShardSource, open_root, root_folder
from embedkd.storage import LocalStorage
from embedkd.storage.location import Location
from embedkd.storage.places import is_remote

if TYPE_CHECKING:
    from collections.abc import Callable

_SPLIT = re.compile(r"(train(?:ing)?|val(?:id|idation)?|test(?:ing)?)(?![a-z])")
_FILE = "file://"
_EXPECTED = "expected a folder of tars, a glob or a brace pattern, or one of these behind s3://, gs:// or https://"


def list_data(data: str) -> Listing:
    """Find the shards of a folder, a glob, a brace pattern (``train-{000000..000007}.tar``) or a symbolic name.

    Args:
        data: A local path or pattern, the same as a URL (``s3://bucket/imagenet/train-*.tar``), or ``data:clipart``.

    Raises:
        ShardError: Nothing matches, it is a pipe, or the index does not fit the files.
        StorageError: A URL cannot be opened or read.
        UnknownNameError: A symbolic name that no package carries.
    """
    place = _local_or_url(data)
    if is_remote(place):
        return list_remote(place)
    folder = root_folder(place)
    if place.startswith(SYMBOLIC) or folder.is_dir():
        return _list_folder(place, folder)
    paths = sorted({Path(path) for pattern in expand_braces(place) for path in _matches(pattern)})
    if not paths:
        raise ShardError(f"no shards match {place}; expected tar files, a folder of them, or data:clipart")
    if len({p.parent for p in paths}) > 1:
        paths = sorted({Path(os.path.abspath(p)) for p in paths})  # noqa: PTH100 - resolve() would follow links
    root = Path(os.path.commonpath([p.parent for p in paths]))
    sizes = {path.relative_to(root).as_posix(): _size_bytes(path) for path in paths}
    return compared(str(root), sizes, indexed_folder(str(root), LocalStorage(root)), whole=False)


def root_of(data: str) -> str:
    """The root of a data set whose shards a store names already; a remote folder is not listed for that.

    Raises:
        ShardError, StorageError, UnknownNameError: As `list_data`.
    """
    place = _local_or_url(data)
    if is_remote(place):
        location = Location.of(place)
        if not names_shards(location):
            return location.url
    return list_data(place).root


def index_shards(listing: Listing, on_shard: "Callable[[Shard], None] | None" = None) -> tuple[Shard, ...]:
    """What each shard holds: from the index where there is one, else by scanning every tar.

    Args:
        listing: The data set as found.
        on_shard: Called after each shard that was scanned, for progress.

    Raises:
        ShardError: A tar cannot be used.
        StorageError: A remote tar cannot be read.
    """
    if listing.indexed:
        return listing.indexed
    root = open_root(listing.root)
    shards = []
    for name in listing.names:
        scan = index_shard(ShardSource(root, name))
        shards.append(Shard(name, split_of(name), scan.size_bytes, len(scan.samples), scan.blake2b))
        if on_shard is not None:
            on_shard(shards[-1])
    return tuple(shards)


def split_of(name: str) -> Split:
    """The split that a shard's file name begins with, else that of the nearest folder named after one, else train.

    >>> [split_of(name) for name in ("val-000000.tar", "test/000000.tar", "validation_0.tar", "trainval.tar", "0.tar")]
    ['val', 'test', 'val', 'train', 'train']
    """
    *folders, file = PurePosixPath(name.lower()).parts
    found = next(filter(None, [_SPLIT.match(file), *(_SPLIT.fullmatch(folder) for folder in reversed(folders))]), None)
    return "train" if found is None else next(split for split in SPLITS if found[1].startswith(split))


def _local_or_url(data: str) -> str:
    """What was typed, with a local file's URL as its path."""
    if not data or data.startswith("pipe:") or "|" in data or "\0" in data:
        raise ShardError(f"{_EXPECTED}, got {'a pipe' if data.strip() else 'nothing'}")
    return unquote(data.removeprefix(_FILE)) if data.startswith(f"{_FILE}/") else data


def _list_folder(data: str, folder: Path) -> Listing:
    found = (path.relative_to(folder) for path in folder.rglob("*.tar") if not path.is_dir())
    names = sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
    indexed = indexed_folder(data, LocalStorage(folder))
    if not names and indexed is None:
        raise ShardError(f"no shards match {data}: {folder} holds no .tar file")
    return compared(data, {name: _size_bytes(folder / name) for name in names}, indexed, whole=True)


def _size_bytes(path: Path) -> int:
    try:
        facts = path.stat()
    except OSError as error:
        raise ShardError(f"cannot read shard {path}: {error.strerror}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise ShardError(f"cannot read shard {path}: it is no regular file")
    return facts.st_size


def _matches(pattern: str) -> list[str]:
    if has_wildcard(pattern):
        found = glob(pattern, recursive=True)  # noqa: PTH207 - absolute patterns too
        return [path for path in found if path.endswith(".tar") and not Path(path).is_dir()]
    if not Path(pattern).exists() or Path(pattern).is_dir():
        raise ShardError(f"no shards match {pattern}: there is no such file or folder")
    return [pattern]
