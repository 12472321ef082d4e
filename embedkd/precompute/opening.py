"""A store for the shards at hand: the one that is there, if it was made from them, or a new one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import ShardError, StoreError
from embedkd.records import ELSEWHERE, DecodePolicy, Shard
from embedkd.sources.index import index_shard
from embedkd.sources.listing import Listing
from embedkd.sources.roots import ShardSource, open_root, root_folder
from embedkd.sources.shards import index_shards, list_data
from embedkd.storage import LocalStorage, open_storage
from embedkd.store import EmbeddingStore, create_store, is_created, open_store, remembered_root

if TYPE_CHECKING:
    from embedkd.config import Config
    from embedkd.progress import Progress
    from embedkd.storage import Storage

EMBEDDED_DATA = "data:clipart"


@dataclass(frozen=True)
class Opening:
    """Shards that were found usable, and the store that is there for them; nothing was written yet.

    Attributes:
        listing: The data set.
        shards: What each shard holds.
        existing: The store at ``precompute.out``; None where there is none.
    """

    listing: Listing
    shards: tuple[Shard, ...]
    existing: EmbeddingStore | None

    @classmethod
    def of(cls, config: "Config", watch: "Progress") -> "Opening":
        """Look at the data and at the store.

        Raises:
            SourceError: The shards cannot be used.
            StoreError: A store is there that was made from other shards.
        """
        listing = list_data(config.data.shards or EMBEDDED_DATA)
        storage = open_storage(config.precompute.out)
        if is_created(storage):
            store = open_store(storage)
            check_listing(store, listing)
            return cls(listing, store.shards, store)
        shards = listing.indexed or _index(listing, watch)
        if not any(shard.rows for shard in shards):
            raise ShardError(f"the shards of {listing.root} hold no sample")
        return cls(listing, shards, None)

    def store(self, config: "Config") -> EmbeddingStore:
        """The store, created if it is not there."""
        return self.existing or create_store(
            open_storage(config.precompute.out),
            self.shards,
            root=remembered_root(self.listing.root, open_storage(config.precompute.out).url),
            classes=self.listing.classes,
            policy=DecodePolicy(),
            capacity=config.precompute.capacity,
        )


def _index(listing: Listing, watch: "Progress") -> tuple[Shard, ...]:
    watch.begin("index", len(listing.names), "shards")
    try:
        return index_shards(listing, lambda _: watch.advance(1))
    finally:
        watch.end()


def check_listing(store: EmbeddingStore, listing: Listing) -> None:
    """Compare the shards at hand with the manifest: name, size, and BLAKE2b.

    The hash comes from the data's index where there is one. Without one a remote shard is taken for the same by its
    length (it is hashed anyway when it is streamed), and a local one at the place that the store remembers while it is
    older than the store; any other is read.

    Raises:
        StoreError: They are not the shards that the store was made from.
    """
    ours = {shard.url: shard.size_bytes for shard in store.shards}
    given = dict(zip(listing.names, listing.sizes_bytes, strict=True))
    odd = next((url for url, size in ours.items() if given.get(url) != size), None)
    if odd is None:
        indexed = {shard.url: shard.blake2b for shard in listing.indexed}
        root = open_root(listing.root)
        odd = next((s.url for s in store.shards if not _is_same(store, s, root, indexed.get(s.url))), None)
    if odd is not None:
        raise StoreError(f"{store.storage.url} was made from other shards ({odd}); use another --out")
    if len(given) > len(ours):
        raise StoreError(
            f"{store.storage.url} was made from other shards ({len(given)} shards where it has {len(ours)}: "
            "embedkd store append adds the new ones); use another --out"
        )


def _is_same(store: EmbeddingStore, shard: Shard, root: "Storage", blake2b: str | None) -> bool:
    if blake2b is not None:
        return blake2b == shard.blake2b
    if not isinstance(root, LocalStorage) or _is_older(store, shard, root):
        return True
    return index_shard(ShardSource(root, shard.url)).blake2b == shard.blake2b


def _is_older(store: EmbeddingStore, shard: Shard, root: LocalStorage) -> bool:
    """Whether a shard lies where the store remembers it, and was not touched since the store was made."""
    if not isinstance(store.storage, LocalStorage) or store.data_root == ELSEWHERE:
        return False
    there, remembered = root.path(shard.url), root_folder(store.data_root) / shard.url
    made = store.storage.path("manifest/0.json").stat().st_mtime
    return there.resolve() == remembered.resolve() and there.stat().st_mtime < made
