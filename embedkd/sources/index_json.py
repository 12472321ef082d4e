"""``index.json``: what the packer knew of the shards beside it, so that nobody has to scan or to list them."""

import json
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from embedkd.errors import ObjectMissingError, ShardError, StorageError, printable
from embedkd.records import SPLITS, Shard
from embedkd.sources.roots import check_name

if TYPE_CHECKING:
    from embedkd.storage import Storage

INDEX_NAME = "index.json"
MAX_INDEX_BYTES = 256 << 20
_MEMBERS = {field.name for field in fields(Shard)}
_MAX_CONTAINERS = 1 << 20
_MAX_COMMAS = 1 << 23
_MAX_URL = 4096
_SHOWN = 200  # characters of a reason, which may repeat what a stranger wrote
_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_index(root: "Storage") -> tuple[tuple[str, ...] | None, tuple[Shard, ...]] | None:
    """Class names and shards of the ``index.json`` directly below a root; None where there is none.

    Raises:
        ShardError: The object is no index of format 1, or names a shard outside its folder.
        StorageError: It cannot be read.
    """
    try:
        data = root.get(INDEX_NAME, limit_bytes=MAX_INDEX_BYTES)
    except ObjectMissingError:
        return None
    except StorageError as error:
        raise ShardError(f"cannot read the index of the shards: {error}") from error
    try:
        classes, shards = _parsed(data)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        reason = str(error)[:_SHOWN]
        raise ShardError(
            f"{root.url}/{INDEX_NAME} is not an index of shards ({reason}); delete it to have the shards scanned"
        ) from error
    for shard in shards:
        check_name(shard.url)
    return classes, shards


def _parsed(data: bytes) -> tuple[tuple[str, ...] | None, tuple[Shard, ...]]:
    _expect(len(data) <= MAX_INDEX_BYTES, f"more than {MAX_INDEX_BYTES} bytes")
    # In memory a list of nothing takes a hundred times its bytes; a stranger may have written millions.
    _expect(data.count(b"{") + data.count(b"[") <= _MAX_CONTAINERS and data.count(b",") <= _MAX_COMMAS, "too long")
    document: dict[str, Any] = json.loads(data)
    _expect(document["format"] == 1, f"format {document['format']!r}, this version reads 1")
    shards = tuple(_indexed(entry) for entry in document["shards"])
    _expect(len({shard.url for shard in shards}) == len(shards), "a shard is named twice")
    classes = document["classes"]
    names = isinstance(classes, list) and all(isinstance(name, str) and name == printable(name) for name in classes)
    _expect(classes is None or names, "expected a list of class names")
    return None if classes is None else tuple(classes), shards


def _indexed(entry: Any) -> Shard:
    _expect(isinstance(entry, dict) and entry.keys() == _MEMBERS, f"expected {', '.join(sorted(_MEMBERS))} of a shard")
    url = entry["url"]
    named = isinstance(url, str) and url == printable(url) and len(url) <= _MAX_URL
    _expect(named, "a url that names no shard")
    shard = Shard(**entry)
    _expect(shard.split in SPLITS, f"split {shard.split!r} of {shard.url}")
    sizes = all(type(number) is int and 0 < number < 1 << 63 for number in (shard.size_bytes, shard.rows))
    _expect(sizes, f"a size of {shard.url}")
    _expect(_DIGEST.fullmatch(shard.blake2b) is not None, f"the blake2b of {shard.url}")
    return shard


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)
