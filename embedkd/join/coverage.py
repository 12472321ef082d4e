"""Whether the shards of some samples are where they should be, as far as lengths and an index tell, before a run."""

from typing import TYPE_CHECKING

from embedkd.errors import ShardError
from embedkd.sources.index_json import read_index
from embedkd.sources.roots import ShardSource, open_root
from embedkd.storage.places import is_remote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedkd.join.samples import Samples
    from embedkd.records import Shard
    from embedkd.storage import Storage

_SHOWN = 3


def check_coverage(parts: "Sequence[Samples]") -> None:
    """Refuse a folder that does not hold the shards of some samples; each sample's bytes are proven when it is read.

    A remote place is not asked, as thousands of questions take their time: its shards are compared when they are
    opened.

    Args:
        parts: The samples.

    Raises:
        ShardError: A shard is missing or is another one; which ones, and how many there are.
    """
    for root, store in dict.fromkeys((samples.root, samples.store) for samples in parts if samples.slots):
        if not is_remote(root):
            here = (samples for samples in parts if (samples.root, samples.store) == (root, store))
            _check(root, store, list(dict.fromkeys(slot.shard for samples in here for slot in samples.slots)))


def _check(root: str, store: str | None, shards: "list[Shard]") -> None:
    storage = open_root(root)
    known = _known(storage)
    wrong = [found for shard in shards if (found := _difference(storage, shard, known)) is not None]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        of = "" if store is None else f" that {store} was made from"
        raise ShardError(
            f"{root} covers {len(shards) - len(wrong)} of the {len(shards)} shards{of}: "
            f"{', '.join(wrong[:_SHOWN])}{more}; name the folder of these very shards with --data, or precompute a "
            "store of the ones you have"
        )


def _known(storage: "Storage") -> dict[str, str]:
    """Name of each shard that an index describes to its digest; nothing where there is none that can be read."""
    try:
        found = read_index(storage)
    except ShardError:
        found = None
    return {} if found is None else {shard.url: shard.blake2b for shard in found[1]}


def _difference(storage: "Storage", shard: "Shard", known: "Mapping[str, str]") -> str | None:
    """What is wrong with a shard, in a few words."""
    try:
        size = ShardSource(storage, shard.url).size_bytes()
    except ShardError:
        return f"{shard.url} cannot be read"
    if size != shard.size_bytes:
        return f"{shard.url} has {size} bytes in place of {shard.size_bytes}"
    return None if known.get(shard.url, shard.blake2b) == shard.blake2b else f"{shard.url} is another tar"
