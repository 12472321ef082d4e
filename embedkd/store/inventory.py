"""Every object that belongs to a store, with what is recorded of it, in an order in which a store can be rebuilt.

What vouches for others comes behind them: commits behind their objects, class sets and heads behind their arrays, and
the manifests, which make a folder a store, behind everything that is in it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import IntegrityError, ObjectMissingError
from embedkd.store.access import GROUP, fetch
from embedkd.store.catalogue import FOLDER as SEALED
from embedkd.store.catalogue import catalogue_key
from embedkd.store.classes import averaged_outputs, set_names
from embedkd.store.commits import ObjectRecord
from embedkd.store.documents import MAX_MANIFEST_BYTES, unseal, unseal_group
from embedkd.store.heads import head_names, head_schemas, read_head
from embedkd.store.manifest import FOLDER as MANIFESTS
from embedkd.store.passes import commit_key, pass_folder
from embedkd.store.schema import (
    MAX_CHUNK_BYTES,
    MAX_DIM,
    ROOT,
    class_folder,
    class_schemas,
    shelf_metadata,
    teacher_folder,
)
from embedkd.store.sealed import index_key
from embedkd.store.structure import check_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from embedkd.store.manifest import Slot
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.schema import ArraySchema
    from embedkd.store.view import TeacherView

_MAX_OBJECT_BYTES = MAX_CHUNK_BYTES + 20


@dataclass(frozen=True)
class StoredObject:
    """One object of a store.

    Attributes:
        key: Its key.
        record: What vouches for it; None of documents and metadata, which were read and checked.
        data: Its bytes, of documents and metadata.
        schema: The array of rows that it is the metadata of, which may have another length elsewhere.
    """

    key: str
    record: ObjectRecord | None = None
    data: bytes | None = None
    schema: "ArraySchema | None" = None


@dataclass(frozen=True)
class Part:
    """Objects, and the one that is written behind them and vouches for them.

    Attributes:
        kind: "frame" for what lies between the rows, "slot", "class set", "head", "seal" or "manifest".
        objects: In order.
        last: Where it is there, so are the others; None where each counts for itself.
    """

    kind: str
    objects: tuple[StoredObject, ...]
    last: StoredObject | None = None

    @property
    def all(self) -> tuple[StoredObject, ...]:
        """All of them in order."""
        return self.objects if self.last is None else (*self.objects, self.last)


def inventory(store: "EmbeddingStore") -> "Iterator[StoredObject]":
    """Every object of a store, each once.

    Raises:
        StoreError: A document or metadata is missing or is not what it should be.
    """
    groups: set[str] = set()  # of class sets and heads: several share theirs
    for part in parts(store):
        for item in part.all:
            if item.data != GROUP or item.key not in groups:
                yield item
            if item.data == GROUP:
                groups.add(item.key)


def parts(store: "EmbeddingStore") -> "Iterator[Part]":
    """The same, part by part. Chunks are named, not read; everything else is read and checked.

    Raises:
        StoreError: A document or metadata is missing or is not what it should be.
    """
    views = [store.teacher(name) for name in store.teacher_ids]
    yield Part("frame", (_document(store, ROOT),))
    yield Part("frame", tuple(_frame(store, views)))
    seen: set[int] = set()
    for view in views:
        for pass_id in view.passes:
            for slot in store.slots:
                part = slot_part(view, pass_id, slot, with_rows=slot.index not in seen)
                if part is not None:
                    seen.add(slot.index)
                    yield part
    for view in views:
        yield from _class_sets(view)
        yield from _heads(view)
    yield from _seal(store, views)
    for generation in range(store.manifest.generation, -1, -1):
        yield Part("manifest", (_document(store, f"{MANIFESTS}/{generation}.json"),))
    if store.catalogue is not None:
        for number in range(store.catalogue.number, -1, -1):
            yield Part("seal", (_document(store, catalogue_key(number)),))


def slot_part(view: "TeacherView", pass_id: str, slot: "Slot", *, with_rows: bool = True) -> Part | None:
    """The objects of one slot and their commit; None where it has none.

    Args:
        view: The teacher.
        pass_id: The pass.
        slot: The slot.
        with_rows: Whether the objects of ``rows`` are among them, which all passes share.

    Raises:
        IntegrityError: The commit is not what it should be, or was sealed and is gone or another one.
    """
    key = commit_key(view.teacher_id, pass_id, slot.index)
    index = view.log.index(pass_id)
    at = None if index is None else index.place(slot.index)
    read = view.log.read_commit(slot, pass_id)
    if read is None:
        if at is not None:
            raise IntegrityError(f"{key} is gone; the sealed index still vouches for its slot, restore it from a copy")
        return None
    commit, digest = read
    if index is not None and at is not None and index.commits[at].tobytes().hex() != digest:
        raise IntegrityError(f"{key} is not the one that was sealed; restore it")
    keys = view.log.object_keys(slot, pass_id)
    if [record.key for record in commit.objects] != keys:
        raise IntegrityError(f"{key} does not name the objects of its slot; run embedkd store repair")
    records = commit.objects if with_rows else commit.objects[len(view.row_schemas()) :]
    last = _document(view.store, key)
    assert last.data is not None
    if unseal(last.data, key).own_digest != digest:
        raise IntegrityError(f"{key} was changed while it was read; run the same command again")
    return Part("slot", tuple(StoredObject(record.key, record) for record in records), last)


def read_object(store: "EmbeddingStore", item: StoredObject) -> bytes:
    """The bytes of an object, a chunk's compared with its record to the last byte.

    Raises:
        IntegrityError: It is missing, or is not the one that was recorded.
    """
    if item.data is not None:
        return item.data
    assert item.record is not None
    try:
        data = store.storage.get(item.key, limit_bytes=min(item.record.size_bytes, _MAX_OBJECT_BYTES))
    except ObjectMissingError as error:
        raise IntegrityError(
            f"{store.storage.url} lacks {item.key}; restore it, or run embedkd store repair"
        ) from error
    item.record.check(data, thorough=True)
    return data


def _frame(store: "EmbeddingStore", views: "Iterable[TeacherView]") -> "Iterator[StoredObject]":
    """Groups, shelves, specifications, passes and the metadata of arrays."""
    yield StoredObject(f"{MANIFESTS}/{ROOT}", data=_exactly(store, MANIFESTS, shelf_metadata()))
    schemas: dict[str, ArraySchema] = {}
    for view in views:
        view.check_structure()
        if view.passes and not schemas:
            for folder in ("rows", "teachers"):
                yield StoredObject(f"{folder}/{ROOT}", data=GROUP)
        yield _document(store, f"{teacher_folder(view.teacher_id)}/{ROOT}")
        for pass_id in view.passes:
            folder = pass_folder(view.teacher_id, pass_id)
            yield StoredObject(f"{folder}/{ROOT}", data=shelf_metadata())
            yield _document(store, f"{folder}/pass.json")
        outputs = [schema for output in view.outputs for schema in view.output_schemas(output)]
        rows = view.row_schemas() if view.passes else ()
        schemas |= {schema.path: schema for schema in (*rows, *outputs)}
    for schema in schemas.values():
        data = fetch(store.storage, f"{schema.path}/{ROOT}")
        check_array(store, schema, data)
        yield StoredObject(f"{schema.path}/{ROOT}", data=data, schema=schema)


def _class_sets(view: "TeacherView") -> "Iterator[Part]":
    shelf = f"{teacher_folder(view.teacher_id)}/classes"
    for output in averaged_outputs(view):
        for name in set_names(view, output):
            made = view.class_set(name, output)
            last = _document(view.store, f"{class_folder(view.teacher_id, name, output)}/{ROOT}")
            assert last.data is not None
            arrays = unseal_group(last.data, last.key).member("arrays")
            records = [ObjectRecord.from_json(arrays.member(part)) for part in ("mean", "count", "spread")]
            groups = [StoredObject(f"{folder}/{ROOT}", data=GROUP) for folder in (shelf, f"{shelf}/{name}")]
            schemas = class_schemas(view.teacher_id, name, output, *made.mean.shape)
            yield Part(
                "class set",
                (
                    *groups,
                    *(_metadata(view.store, schema) for schema in schemas.values()),
                    *(StoredObject(record.key, record) for record in records),
                ),
                last,
            )


def _heads(view: "TeacherView") -> "Iterator[Part]":
    shelf = f"{teacher_folder(view.teacher_id)}/heads"
    for name in head_names(view):
        head = read_head(view, name)
        last = _document(view.store, f"{shelf}/{name}/{ROOT}")
        assert last.data is not None
        entries = unseal_group(last.data, last.key).objects("objects", MAX_DIM)
        records = [ObjectRecord.from_json(entry) for entry in entries]
        schemas = head_schemas(view, name, head.weight.shape)
        yield Part(
            "head",
            (
                StoredObject(f"{shelf}/{ROOT}", data=GROUP),
                *(_metadata(view.store, schema) for schema in schemas.values()),
                *(StoredObject(record.key, record) for record in records),
            ),
            last,
        )


def _seal(store: "EmbeddingStore", views: "Iterable[TeacherView]") -> "Iterator[Part]":
    """The shelf of the catalogues, and the indexes that the newest one names."""
    if store.catalogue is None:
        return
    yield Part("seal", (StoredObject(f"{SEALED}/{ROOT}", data=_exactly(store, SEALED, shelf_metadata())),))
    for view in views:
        for pass_id in view.passes:
            sealed = store.catalogue.pass_of(view.teacher_id, pass_id)
            if sealed is not None and sealed.index is not None:
                view.log.index(pass_id)
                yield Part("seal", (_document(store, index_key(view.teacher_id, pass_id, sealed.index)),))


def _metadata(store: "EmbeddingStore", schema: "ArraySchema") -> StoredObject:
    return StoredObject(f"{schema.path}/{ROOT}", data=_exactly(store, schema.path, schema.metadata()))


def _document(store: "EmbeddingStore", key: str) -> StoredObject:
    try:
        data = store.storage.get(key, limit_bytes=MAX_MANIFEST_BYTES)
    except ObjectMissingError as error:
        raise IntegrityError(f"{store.storage.url} lacks {key}; restore it from a copy") from error
    (unseal_group if key.endswith(ROOT) else unseal)(data, key)
    return StoredObject(key, data=data)


def _exactly(store: "EmbeddingStore", folder: str, metadata: bytes) -> bytes:
    if fetch(store.storage, f"{folder}/{ROOT}") != metadata:
        raise IntegrityError(f"{folder}/{ROOT} is not what the store's specification derives; restore it")
    return metadata
