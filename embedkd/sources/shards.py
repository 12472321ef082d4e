"""Which shards there are: folders, globs, braces and the embedded data set, and what their index says.

A data set is a *root* and shards named below it. The root is a folder or a symbolic name (``data:clipart``), so what is
remembered of a data set stays true where the folder lies elsewhere.
"""

import json
import os
import re
from dataclasses import dataclass
from glob import glob, has_magic
from importlib import resources
from itertools import product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from embedkd.errors import ShardError, UnknownNameError
from embedkd.records import ELSEWHERE, SPLITS, Shard, Split
from embedkd.sources.index import index_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INDEX_NAME = "index.json"
SYMBOLIC = "data:"
EMBEDDED = ("clipart",)
MAX_INDEX_BYTES = 256 << 20
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPLIT = re.compile(r"(train(?:ing)?|val(?:id|idation)?|test(?:ing)?)(?![a-z])")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Listing:
    """A data set as found: names and sizes, and an index where one lies beside the shards.

    Attributes:
        root: Folder as it was typed, or a symbolic name.
        names: Shards relative to the root, in order.
        sizes_bytes: Length of each shard now.
        classes: Class names in label order, where an index gives them.
        indexed: The index's entry of each shard; empty where there is no index.
    """

    root: str
    names: tuple[str, ...]
    sizes_bytes: tuple[int, ...]
    classes: tuple[str, ...] | None
    indexed: tuple[Shard, ...]


def root_folder(root: str) -> Path:
    """The folder of a root.

    Raises:
        ShardError: A store remembers that its data lies elsewhere.
        UnknownNameError: A symbolic name that no package carries.
    """
    if not root.startswith(SYMBOLIC):
        return Path(root)
    name = root.removeprefix(SYMBOLIC)
    if root == ELSEWHERE:
        raise ShardError("the store does not know where its shards lie from here; name their place with --data")
    if name not in EMBEDDED:
        raise UnknownNameError("embedded data set", root, [SYMBOLIC + known for known in EMBEDDED])
    package = Path(str(resources.files("embedkd")))
    carried = package / "_data" / name
    return carried if carried.is_dir() else package.parent / "data" / name / "shards"


def shard_path(root: str, name: str) -> Path:
    """The file of a shard.

    Raises:
        ShardError: The name would leave the root.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or "://" in name:
        raise ShardError(
            f"expected a shard below its data folder, got {name!r}; the index or manifest is not to be trusted"
        )
    return root_folder(root).joinpath(*parts)


def list_data(data: str) -> Listing:
    """Find the shards of a folder, a glob, a brace pattern (``train-{000000..000007}.tar``) or a symbolic name.

    Raises:
        ShardError: Nothing matches, the pattern is a URL or a pipe, or the index does not fit the files.
        UnknownNameError: A symbolic name that no package carries.
    """
    if not data or data.startswith("pipe:") or "://" in data or "|" in data or "\0" in data:
        raise ShardError(f"expected a folder, a glob or a brace pattern of local tars, got {data!r}")
    folder = root_folder(data)
    if data.startswith(SYMBOLIC) or folder.is_dir():
        return _list_folder(data, folder)
    paths = sorted({Path(path) for pattern in _expand_braces(data) for path in _matches(pattern)})
    if not paths:
        raise ShardError(f"no shards match {data}; expected tar files, a folder of them, or data:clipart")
    if len({p.parent for p in paths}) > 1:
        paths = sorted({Path(os.path.abspath(p)) for p in paths})  # noqa: PTH100 - resolve() would follow links
    root = Path(os.path.commonpath([p.parent for p in paths]))
    names = [p.relative_to(root).as_posix() for p in paths]
    return _with_index(str(root), root, names, whole=False)


def index_shards(listing: Listing, on_shard: "Callable[[Shard], None] | None" = None) -> tuple[Shard, ...]:
    """What each shard holds: from the index where there is one, else by scanning every tar.

    Args:
        listing: The data set as found.
        on_shard: Called after each shard that was scanned, for progress.

    Raises:
        ShardError: A tar cannot be used.
    """
    if listing.indexed:
        return listing.indexed
    shards = []
    for name in listing.names:
        scan = index_shard(shard_path(listing.root, name), name)
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


def _list_folder(data: str, folder: Path) -> Listing:
    found = (path.relative_to(folder) for path in folder.rglob("*.tar") if not path.is_dir())
    names = sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
    if not names and not (folder / INDEX_NAME).is_file():
        raise ShardError(f"no shards match {data}: {folder} holds no .tar file")
    return _with_index(data, folder, names, whole=True)


def _with_index(root: str, folder: Path, names: "Sequence[str]", *, whole: bool) -> Listing:
    """The listing of these files; where they are a ``whole`` folder, its index must name all of them and no others."""
    sizes = {name: _size_bytes(folder / name) for name in names}
    index = folder / INDEX_NAME
    if not index.is_file():
        return Listing(root, tuple(names), tuple(sizes[n] for n in names), None, ())
    classes, shards = read_index(index)
    if not whole:
        shards = tuple(shard for shard in shards if shard.url in sizes)
    odd = sorted({shard.url for shard in shards} ^ set(sizes))
    if odd:
        raise ShardError(
            f"{index} and its folder disagree about {odd[0]}; delete {INDEX_NAME} to have the shards scanned"
        )
    for shard in shards:
        if sizes[shard.url] != shard.size_bytes:
            raise ShardError(
                f"shard {shard.url} has {sizes[shard.url]} bytes, {index} says {shard.size_bytes}; "
                f"copy it again, or delete {INDEX_NAME} to have the shards scanned"
            )
    return Listing(root, tuple(s.url for s in shards), tuple(s.size_bytes for s in shards), classes, shards)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ShardError(f"cannot read shard {path}: {error.strerror}") from error


def read_index(path: Path) -> tuple[tuple[str, ...] | None, tuple[Shard, ...]]:
    """Class names and shards of an ``index.json``.

    Raises:
        ShardError: The file is no index of format 1, or names a shard outside its folder.
    """
    try:
        _expect(path.stat().st_size <= MAX_INDEX_BYTES, f"more than {MAX_INDEX_BYTES} bytes")
        document: dict[str, Any] = json.loads(path.read_bytes())
        _expect(document["format"] == 1, f"format {document['format']}, this version reads 1")
        shards = tuple(_indexed(entry) for entry in document["shards"])
        _expect(len({shard.url for shard in shards}) == len(shards), "a shard is named twice")
        classes = document["classes"]
        strings = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        _expect(classes is None or strings, "expected a list of class names")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ShardError(f"{path} is not an index of shards ({error}); delete it to have the shards scanned") from error
    for shard in shards:
        shard_path(str(path.parent), shard.url)
    return None if classes is None else tuple(classes), shards


def _indexed(entry: dict[str, Any]) -> Shard:
    shard = Shard(**entry)
    _expect(isinstance(shard.url, str), "a url that is no string")
    _expect(shard.split in SPLITS, f"split {shard.split!r} of {shard.url}")
    _expect(all(type(n) is int and n > 0 for n in (shard.size_bytes, shard.rows)), f"a size of {shard.url}")
    _expect(_DIGEST.fullmatch(shard.blake2b) is not None, f"the blake2b of {shard.url}")
    return shard


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _matches(pattern: str) -> list[str]:
    if has_magic(pattern):
        found = glob(pattern, recursive=True)  # noqa: PTH207 - absolute patterns too
        return [path for path in found if path.endswith(".tar") and not Path(path).is_dir()]
    if not Path(pattern).is_file():
        raise ShardError(f"no shards match {pattern}: there is no such file or folder")
    return [pattern]


def _expand_braces(pattern: str) -> list[str]:
    """``a-{000..002}{x,y}`` to all its strings, with leading zeros kept, as webdataset expands them."""
    parts = _BRACES.split(pattern)
    choices = [[part] if i % 2 == 0 else _choices(part) for i, part in enumerate(parts)]
    return ["".join(combination) for combination in product(*choices)]


def _choices(inside: str) -> list[str]:
    match = _RANGE.fullmatch(inside)
    if match is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last = match.groups()
    if int(last) < int(first):
        raise ShardError(f"expected a rising range, got {{{inside}}}")
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [str(i).zfill(width) for i in range(int(first), int(last) + 1)]
