"""Copying a store between any two places: what is missing, each object checked where it comes from and on arrival.

The manifests go last, so that a copy that was interrupted is no store. Whatever vouches for objects is copied behind
them, so that where it is, they are: running the same command again goes on.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import ConflictError, IntegrityError, ObjectExistsError
from embedkd.progress import Silent
from embedkd.records import blake2b_hex
from embedkd.store.catalogue import catalogue_key
from embedkd.store.documents import MAX_MANIFEST_BYTES
from embedkd.store.inventory import Part, StoredObject, parts, read_object
from embedkd.store.manifest import FOLDER as MANIFESTS
from embedkd.store.reader import open_store
from embedkd.store.schema import ROOT
from embedkd.store.structure import check_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedkd.progress import Progress
    from embedkd.storage import Storage
    from embedkd.store.reader import EmbeddingStore


@dataclass
class CopyReport:
    """What was copied, or would be.

    Attributes:
        objects: Objects that were copied.
        bytes: Their bytes.
        present: Objects that were there already.
    """

    objects: int = 0
    bytes: int = 0
    present: int = 0


def copy_store(
    source: "Storage", target: "Storage", *, progress: "Progress | None" = None, dry_run: bool = False
) -> CopyReport:
    """Copy everything that belongs to a store, and nothing else.

    Args:
        source: The store.
        target: Where the copy is, or shall be.
        progress: Who watches.
        dry_run: Look, and write nothing.

    Raises:
        ConflictError: Something else lies at the target; nothing of it was changed.
        IntegrityError: An object of the source is broken, or did not arrive as it was sent.
    """
    watch, store, report = progress or Silent(), open_store(source), CopyReport()
    _check_target(store, target)
    watch.begin("copy", sum(len(store.teacher(name).passes) for name in store.teacher_ids) * len(store.slots), "slots")
    try:
        for part in parts(store):
            for item in _missing(store, target, part, report):
                data = read_object(store, item)
                if not dry_run:
                    _put(target, item, data)
                report.objects += 1
                report.bytes += len(data)
            if part.kind == "slot":
                watch.advance(1)
    finally:
        watch.end()
    return report


def _check_target(store: "EmbeddingStore", target: "Storage") -> None:
    """Refuse a target with another store, or with one that went another way, before anything is written."""
    for key in _decisive(store):
        if target.exists(key) and _read(target, key) != _read(store.storage, key):
            raise ConflictError(
                f"{target.url} has another {key} than {store.storage.url}: it is no copy of it, or both went on by "
                "themselves; copy to another place"
            )


def _decisive(store: "EmbeddingStore") -> "Iterator[str]":
    """What must be the same in a copy, as far as it is there: the last numbers may be a stranger's, and far off.

    Raises:
        IntegrityError: There is a gap.
    """
    numbers = [f"{MANIFESTS}/{number}.json" for number in range(store.manifest.generation + 1)]
    sealed = 0 if store.catalogue is None else store.catalogue.number + 1
    for key in (ROOT, *numbers, *map(catalogue_key, range(sealed))):
        if not store.storage.exists(key):
            raise IntegrityError(f"{store.storage.url} lacks {key}; restore it from another copy")
        yield key


def _missing(store: "EmbeddingStore", target: "Storage", part: Part, report: CopyReport) -> "Iterator[StoredObject]":
    """What the target lacks of one part."""
    if part.last is not None and target.exists(part.last.key):
        _check_same(target, part.last)
        report.present += len(part.all)
        return
    for item in part.all:
        if not target.exists(item.key):
            yield item
        elif item.schema is not None and check_array(store, item.schema, _read(target, item.key)):
            yield item  # it is shorter: shards were appended since it was copied
        else:
            if item.schema is None:
                _check_same(target, item)
            report.present += 1


def _check_same(target: "Storage", item: StoredObject) -> None:
    expected = (len(item.data), blake2b_hex(item.data)) if item.data is not None else (0, "")
    if item.record is not None:
        expected = (item.record.size_bytes, item.record.blake2b)
    if blake2b_hex(_read(target, item.key, expected[0])) != expected[1]:
        raise ConflictError(f"{target.url} has another {item.key}; remove it there, or copy to another place")


def _put(target: "Storage", item: StoredObject, data: bytes) -> None:
    try:
        target.put_new(item.key, data)
    except ObjectExistsError:  # metadata of an array that was shorter, or another copy of the same store under way
        if item.schema is not None:
            target.replace(item.key, data)
    if _read(target, item.key, len(data)) != data:
        raise IntegrityError(f"{target.url} holds something else as {item.key} than was sent; check that place")


def _read(storage: "Storage", key: str, limit_bytes: int = MAX_MANIFEST_BYTES) -> bytes:
    return storage.get(key, limit_bytes=limit_bytes)
