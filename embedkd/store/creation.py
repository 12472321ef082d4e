"""Creating a store: its root group, and the manifest as the last write."""

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from embedkd.errors import StoreError
from embedkd.records import ELSEWHERE
from embedkd.storage.places import relative_place
from embedkd.store.access import put_or_keep
from embedkd.store.documents import Fields, seal, seal_group
from embedkd.store.manifest import FOLDER, SYMBOLIC, Manifest, fitting_capacity, slots_of
from embedkd.store.reader import EmbeddingStore, open_store, shard_identity
from embedkd.store.root import policy_facts, policy_of, read_root
from embedkd.store.schema import ROOT, shelf_metadata

if TYPE_CHECKING:
    from embedkd.records import DecodePolicy, Shard
    from embedkd.storage import Storage


def create_store(
    storage: "Storage",
    shards: "tuple[Shard, ...]",
    *,
    root: str,
    classes: tuple[str, ...] | None,
    policy: "DecodePolicy",
    capacity: int | None = None,
) -> EmbeddingStore:
    """Create a store for these shards, or open the one that is there and is for these shards.

    Any number of processes may do this at once: they end with the same store.

    Args:
        storage: Where the store shall live.
        shards: In the order of their slots.
        root: Where the shards lie, as the manifest shall remember it: see `remembered_root`.
        classes: Class names in label order.
        policy: How images are decoded.
        capacity: Rows a slot, a power of two; by default the smallest that fits the longest shard.

    Raises:
        FormatError: The shards cannot be held by the format, or something else lies there.
        StoreError: A store is there that was made from other shards, classes or settings.
    """
    identity, rows = str(uuid.uuid4()), capacity or fitting_capacity(shards)
    attributes = {
        "store_uuid": identity,
        "capacity": rows,
        "decode": policy_facts(policy),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    policy_of(Fields(attributes, "the new store"))
    _checked_manifest(identity, root, classes, shards, rows)
    put_or_keep(storage, ROOT, seal_group(attributes))
    facts = read_root(storage)  # another process may have put it, or an earlier one that was interrupted
    _check_settings(storage, facts, policy, capacity)
    put_or_keep(storage, f"{FOLDER}/{ROOT}", shelf_metadata())
    first = _checked_manifest(facts.text("store_uuid"), root, classes, shards, facts.number("capacity"))
    put_or_keep(storage, f"{FOLDER}/0.json", seal(first.to_json()))
    store = open_store(storage)
    _check_shards(store, shards)
    if store.class_names != classes:
        raise StoreError(f"{storage.url} was made with other class names; use another --out")
    return store


def is_created(storage: "Storage") -> bool:
    """Whether a store is there whose creation came to its end: the first manifest is its last write."""
    return storage.exists(f"{FOLDER}/0.json")


def remembered_root(root: str, store: str) -> str:
    """A data root as a manifest remembers it: symbolic, or relative to the store itself.

    Where no way leads from the store to the data, as from a bucket to a disk, `ELSEWHERE` is remembered: such a store
    is used with ``--data``.
    """
    return root if root.startswith(SYMBOLIC) else relative_place(root, store) or ELSEWHERE


def _checked_manifest(
    store: str, root: str, classes: tuple[str, ...] | None, shards: "tuple[Shard, ...]", capacity: int
) -> Manifest:
    """The first manifest, after it was read as a reader will read it."""
    first = Manifest(store, 0, root, classes, slots_of(shards, capacity))
    return Manifest.from_json(Fields(first.to_json(), "the new manifest"), capacity)


def _check_shards(store: EmbeddingStore, shards: "tuple[Shard, ...]") -> None:
    """Compare shards with those that the store was made from, by size, BLAKE2b, samples and split."""
    url, ours = store.storage.url, store.shards
    if len(ours) != len(shards):
        raise StoreError(f"{url} was made from {len(ours)} shards, these are {len(shards)}; use another --out")
    for mine, given in zip(ours, shards, strict=True):
        if shard_identity(mine) != shard_identity(given):
            raise StoreError(f"{url} was made from other shards ({given.url} is not its {mine.url}); use another --out")


def _check_settings(storage: "Storage", facts: Fields, policy: "DecodePolicy", capacity: int | None) -> None:
    there = policy_of(facts)
    if there != policy:
        raise StoreError(f"{storage.url} was made with another decode policy ({there}); use another --out")
    if capacity not in {None, facts.number("capacity")}:
        raise StoreError(
            f"{storage.url} was made with {facts.number('capacity')} rows a slot, not {capacity}; use another --out"
        )
