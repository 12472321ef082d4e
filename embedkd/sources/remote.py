"""Which shards there are in a bucket or on a web server."""

import posixpath
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from embedkd.errors import ListingError, ShardError
from embedkd.sources.index_json import INDEX_NAME
from embedkd.sources.listing import Listing, compared, indexed_folder
from embedkd.sources.patterns import expand_braces, fixed_folder, has_pattern, has_wildcard, matching
from embedkd.sources.roots import ShardSource
from embedkd.storage.location import Location
from embedkd.storage.opening import open_remote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.storage import Storage

MAX_LISTED = 1 << 22
_ASKED_AT_ONCE = 16
_TAR = ".tar"


def list_remote(url: str) -> Listing:
    """Find the shards below a URL, or those that a pattern in its path stands for.

    Where an index lies beside them it is believed, and nothing is listed or asked for; a shard is compared with it
    when it is read.

    Raises:
        ShardError: Nothing matches, the place cannot list what it has, or its index cannot be used.
        StorageError: The URL cannot be opened or read.
    """
    place = Location.of(url)
    return _list_names(place) if names_shards(place) else _list_folder(place)


def names_shards(place: Location) -> bool:
    """Whether a URL stands for shards, and not for the folder that holds them."""
    return has_pattern(place.prefix) or place.prefix.endswith(_TAR)


def _list_folder(place: Location) -> Listing:
    storage = open_remote(place.url)
    indexed = indexed_folder(place.url, storage)
    if indexed is not None:
        return indexed
    return compared(place.url, _find(place), None, whole=True)


def _list_names(place: Location) -> Listing:
    patterns = expand_braces(place.prefix)
    found: dict[str, int] = {}
    names = sorted(set(patterns))
    if any(has_wildcard(pattern) for pattern in patterns):
        fixed = fixed_folder(place.prefix)
        found = {posixpath.join(fixed, name): size for name, size in _find(_at(place, fixed)).items()}
        names = sorted({name for pattern in patterns for name in matching(pattern, found)})
    if not names:
        raise ShardError(f"no shards match {place.url}; expected tars")
    root = posixpath.commonpath([posixpath.dirname(name) for name in names])
    keys = [_key(place, name[len(root) :].lstrip("/")) for name in names]
    storage = open_remote(_at(place, root).url)
    indexed = indexed_folder(storage.url, storage)
    known = {} if indexed is None else {shard.url: shard.size_bytes for shard in indexed.indexed}
    if found:
        sizes = [found[name] for name in names]
    elif known.keys() >= set(keys):
        sizes = [known[key] for key in keys]
    else:
        sizes = _ask(storage, keys)
    return compared(storage.url, dict(zip(keys, sizes, strict=True)), indexed, whole=False)


def _find(place: Location) -> dict[str, int]:
    """Name and length of all tars below a place, but hidden ones.

    Raises:
        ShardError: There are none, or nobody can tell.
    """
    try:
        found = open_remote(place.url).find(_TAR, MAX_LISTED)
    except ListingError as error:
        raise ShardError(
            f"{error}; name the shards, as in {place.url}/train-{{000000..000127}}.tar, or put the {INDEX_NAME} beside "
            "them that embedkd pack writes"
        ) from error
    sizes = {name: size for name, size in found if not any(part.startswith(".") for part in PurePosixPath(name).parts)}
    if not sizes:
        raise ShardError(f"no shards match {place.url}: it holds no .tar object")
    return sizes


def _ask(storage: "Storage", names: "Sequence[str]") -> list[int]:
    """The length of each shard, by one request each."""
    sources = [ShardSource(storage, name) for name in names]
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return list(pool.map(ShardSource.size_bytes, sources))


def _at(place: Location, prefix: str) -> Location:
    return Location.of(f"{place.scheme}://{place.host}/{prefix}")


def _key(place: Location, name: str) -> str:
    """A name as its storage takes it: a web server's URL is typed with escapes, and its keys have none."""
    return unquote(name) if place.scheme in {"http", "https"} else name
