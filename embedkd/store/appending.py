"""Appending shards: a new generation of the manifest, whose slots begin with all slots of the last one.

The manifest is put first and decides: from then on the store is the new one, in which the new slots are holes. After it
the arrays are made longer, for readers that go by their shape; ours take the length of any generation. So a store opens
as the old one or as the new one whenever a kill comes, and readers of the old one go on.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import ConflictError, FormatError, StoreError
from embedkd.progress import Silent
from embedkd.store.access import fetch, put_or_keep
from embedkd.store.documents import MAX_MANIFEST_BYTES, Fields, seal
from embedkd.store.manifest import FOLDER, Manifest, slots_of
from embedkd.store.reader import open_store, shard_identity
from embedkd.store.schema import ROOT
from embedkd.store.structure import check_array
from embedkd.store.writer import put_array

if TYPE_CHECKING:
    from embedkd.progress import Progress
    from embedkd.records import Shard
    from embedkd.storage import Storage
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.schema import ArraySchema


@dataclass(frozen=True)
class AppendReport:
    """What appending did, or would do.

    Attributes:
        generation: Of the manifest, afterwards.
        shards: Shards that were appended; 0 where all were there.
        slots: Slots that were appended.
        rows: Samples that were appended.
        arrays: Arrays that were made longer.
    """

    generation: int
    shards: int
    slots: int
    rows: int
    arrays: int


def append_shards(
    storage: "Storage", shards: "tuple[Shard, ...]", *, progress: "Progress | None" = None, dry_run: bool = False
) -> AppendReport:
    """Add shards to a store, behind those that it has; shards that it has already are left out.

    Rows of the new shards are holes until they are computed. Sealed indexes and class sets stay as they are.

    Args:
        storage: The store.
        shards: The new ones, or old and new ones; named relative to the store's data root.
        progress: Who watches.
        dry_run: Look, and write nothing.

    Raises:
        ConflictError: Another process appended meanwhile.
        FormatError: There are too many slots.
        StoreError: A shard has the name of one that the store has, and another content.
    """
    watch, store = progress or Silent(), open_store(storage)
    new = new_shards(store, shards)
    grown = store if not new else _grown(store, new)
    arrays = [schema for schema in _arrays(grown) if new or _is_short(grown, schema)]
    if not dry_run:
        if new:
            _put_manifest(grown.storage, grown.manifest)
        watch.begin("make arrays longer", len(arrays), "arrays")
        try:
            for schema in arrays:
                put_array(grown, schema)
                watch.advance(1)
        finally:
            watch.end()
    return AppendReport(
        generation=grown.manifest.generation,
        shards=len(new),
        slots=len(grown.slots) - len(store.slots),
        rows=sum(shard.rows for shard in new),
        arrays=len(arrays),
    )


def new_shards(store: "EmbeddingStore", shards: "tuple[Shard, ...]") -> "tuple[Shard, ...]":
    """Those of the shards that the store does not have.

    Raises:
        StoreError: A shard has the name of one that the store has, and another content; or a name comes twice.
    """
    known = {shard.url: shard for shard in store.shards}
    new: dict[str, Shard] = {}
    for shard in shards:
        there = known.get(shard.url) or new.get(shard.url)
        if there is None:
            new[shard.url] = shard
        elif shard_identity(there) != shard_identity(shard):
            raise StoreError(
                f"{store.storage.url} was made from another {shard.url}; give the new shard another name, or restore "
                "the old one"
            )
    return tuple(new.values())


def _grown(store: "EmbeddingStore", new: "tuple[Shard, ...]") -> "EmbeddingStore":
    """The store as it will be, read as a reader will read it."""
    last = store.manifest
    slots = slots_of((*last.shards, *new), store.capacity)
    made = Manifest(last.store, last.generation + 1, last.root, last.classes, slots, last.digest)
    manifest = Manifest.from_json(Fields(made.to_json(), "the new manifest"), store.capacity)
    return type(store)(store.storage, manifest, store.capacity, store.policy, store.catalogue)


def _put_manifest(storage: "Storage", manifest: Manifest) -> None:
    data = seal(manifest.to_json())
    if len(data) > MAX_MANIFEST_BYTES:
        raise FormatError(f"expected a manifest of up to {MAX_MANIFEST_BYTES} bytes, got {len(data)}; use fewer shards")
    if put_or_keep(storage, f"{FOLDER}/{manifest.generation}.json", data) != data:
        raise ConflictError(f"{storage.url} was appended to by another process meanwhile; run the same command again")


def _arrays(store: "EmbeddingStore") -> "list[ArraySchema]":
    """All arrays of rows that are there."""
    found: dict[str, ArraySchema] = {}
    for teacher_id in store.teacher_ids:
        view = store.teacher(teacher_id)
        outputs = [schema for output in view.outputs for schema in view.output_schemas(output)]
        found |= {schema.path: schema for schema in (*view.row_schemas(), *outputs)}
    return [schema for schema in found.values() if store.storage.exists(f"{schema.path}/{ROOT}")]


def _is_short(store: "EmbeddingStore", schema: "ArraySchema") -> bool:
    return check_array(store, schema, fetch(store.storage, f"{schema.path}/{ROOT}"))
