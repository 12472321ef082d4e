"""A data set as found: which shards there are and how long they are, checked against an index where one lies there."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import ShardError
from embedkd.sources.index_json import INDEX_NAME, read_index

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedkd.records import Shard
    from embedkd.storage import Storage


@dataclass(frozen=True)
class Listing:
    """A data set as found: names and sizes, and an index where one lies beside the shards.

    Attributes:
        root: Folder or URL as it was typed, or a symbolic name.
        names: Shards relative to the root, in order.
        sizes_bytes: Length of each shard; of a remote one that an index names, what the index says.
        classes: Class names in label order, where an index gives them.
        indexed: The index's entry of each shard; empty where there is no index.
    """

    root: str
    names: tuple[str, ...]
    sizes_bytes: tuple[int, ...]
    classes: "tuple[str, ...] | None"
    indexed: "tuple[Shard, ...]"


def indexed_folder(root: str, storage: "Storage") -> Listing | None:
    """The data set that an index names, which nobody listed; None where there is no index.

    Raises:
        ShardError: The index cannot be used.
    """
    index = read_index(storage)
    if index is None:
        return None
    classes, shards = index
    return Listing(root, tuple(s.url for s in shards), tuple(s.size_bytes for s in shards), classes, shards)


def compared(root: str, sizes: "Mapping[str, int]", indexed: Listing | None, *, whole: bool) -> Listing:
    """The listing of these shards, with what an index says of them.

    Args:
        root: Folder, URL or symbolic name.
        sizes: Shards below it, in order, with their lengths in bytes.
        indexed: What the index beside them names.
        whole: Whether these are all that lie there: then the index must name all of them and no others.

    Raises:
        ShardError: The index does not fit the shards.
    """
    if indexed is None:
        return Listing(root, tuple(sizes), tuple(sizes.values()), None, ())
    shards = indexed.indexed if whole else tuple(shard for shard in indexed.indexed if shard.url in sizes)
    odd = sorted({shard.url for shard in shards} ^ set(sizes))
    if odd:
        raise ShardError(
            f"the {INDEX_NAME} of {root} and its folder disagree about {odd[0]}; delete it to have the shards scanned"
        )
    for shard in shards:
        if sizes[shard.url] != shard.size_bytes:
            raise ShardError(
                f"shard {shard.url} has {sizes[shard.url]} bytes, the {INDEX_NAME} of {root} says {shard.size_bytes}; "
                "copy it again, or delete it to have the shards scanned"
            )
    return Listing(root, tuple(s.url for s in shards), tuple(s.size_bytes for s in shards), indexed.classes, shards)
