"""Sealing: one index for all commits of a pass, then one catalogue of everything that is there.

Indexes come first and count for nothing until a catalogue names them, so a kill anywhere leaves the store as it was.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedkd.errors import ConflictError, FormatError, IntegrityError
from embedkd.progress import Silent
from embedkd.store.access import fetch, fetch_expected, put_or_keep
from embedkd.store.catalogue import FOLDER as SEALED
from embedkd.store.catalogue import Catalogue, SealedPass, SealedTeacher, catalogue_key
from embedkd.store.classes import averaged_outputs, set_names
from embedkd.store.documents import MAX_DOCUMENT_BYTES, MAX_MANIFEST_BYTES, digest_of, seal, unseal_group
from embedkd.store.heads import head_names
from embedkd.store.passes import commit_key
from embedkd.store.reader import open_store
from embedkd.store.schema import ROOT, class_folder, shelf_metadata, teacher_folder
from embedkd.store.sealed import SealedIndex, index_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from embedkd.progress import Progress
    from embedkd.storage import Storage
    from embedkd.store.manifest import Slot
    from embedkd.store.measured import MeasuredError
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.view import TeacherView

_BATCH_SLOTS = 1024  # commits are longer than their columns: so many are in memory at once


@dataclass(frozen=True)
class SealReport:
    """What a seal holds, or would hold.

    Attributes:
        number: Of the catalogue.
        digest: Of the catalogue: whoever knows it knows every byte that the store held then.
        new: Whether there was anything that the last seal did not hold.
        slots: Slots of the store.
        passes: Teacher to pass to the number of slots that are sealed.
        errors: Teacher to pass to output to what its encoding lost in these slots.
        index_bytes: Of all indexes that were written.
    """

    number: int
    digest: str
    new: bool
    slots: int
    passes: dict[str, dict[str, int]]
    errors: "dict[str, dict[str, Mapping[str, MeasuredError]]]"
    index_bytes: int


def seal_store(storage: "Storage", *, progress: "Progress | None" = None, dry_run: bool = False) -> SealReport:
    """Seal everything that is committed, so that the store opens fast, and without being listed.

    Args:
        storage: The store.
        progress: Who watches.
        dry_run: Look, and write nothing.

    Raises:
        ConflictError: Another process sealed meanwhile.
        FormatError: A pass has more commits than one index holds.
        StoreError: A commit is broken; it is named.
    """
    watch, store = progress or Silent(), open_store(storage)
    indexes: dict[tuple[str, str], SealedIndex] = {}
    for name in store.teacher_ids:
        view = store.teacher(name)
        for run in view.passes:
            index = _merged(view, run, store.slots, watch)
            if index is not None:
                indexes[name, run] = index
    return write_seal(store, indexes, dry_run=dry_run)


def write_seal(
    store: "EmbeddingStore",
    indexes: "Mapping[tuple[str, str], SealedIndex]",
    *,
    without: "Collection[str]" = (),
    dry_run: bool = False,
) -> SealReport:
    """Put these indexes, and a catalogue that names them with all else that is there.

    Args:
        store: The store, as it is now.
        indexes: By teacher and pass; a pass without one is sealed as begun.
        without: Folders of class sets and heads that are left out.
        dry_run: Look, and write nothing.

    Raises:
        ConflictError: Another process sealed meanwhile.
        FormatError: A pass has more commits than one index holds.
    """
    new_indexes: dict[str, bytes] = {}
    teachers = {name: _teacher(store.teacher(name), indexes, new_indexes, without) for name in store.teacher_ids}
    last = store.catalogue
    number = 0 if last is None else last.number + 1
    made = Catalogue(store.uuid, number, store.manifest.generation, store.manifest.digest, teachers)
    if last is not None and replace(made, number=last.number) == last:
        made, new = last, False
    else:
        new = True
    if new and not dry_run:
        _write(store.storage, made, new_indexes)
    return SealReport(
        made.number,
        digest_of(made.to_json()),
        new,
        len(store.slots),
        {name: {run: facts.slots for run, facts in teacher.passes.items()} for name, teacher in teachers.items()},
        {name: {run: facts.error for run, facts in teacher.passes.items()} for name, teacher in teachers.items()},
        sum(map(len, new_indexes.values())),
    )


def _write(storage: "Storage", made: Catalogue, indexes: dict[str, bytes]) -> None:
    for key, data in indexes.items():
        if put_or_keep(storage, key, data) != data:
            raise ConflictError(f"{key} was written by another process meanwhile; run the same command again")
    put_or_keep(storage, f"{SEALED}/{ROOT}", shelf_metadata())
    fetch_expected(storage, SEALED, shelf_metadata())
    document = seal(made.to_json())
    if len(document) > MAX_DOCUMENT_BYTES:
        raise FormatError(f"expected a catalogue of up to {MAX_DOCUMENT_BYTES} bytes, got {len(document)}")
    if put_or_keep(storage, catalogue_key(made.number), document) != document:
        raise ConflictError(f"{storage.url} was sealed by another process meanwhile; run the same command again")


def _teacher(
    view: "TeacherView",
    indexes: "Mapping[tuple[str, str], SealedIndex]",
    new_indexes: dict[str, bytes],
    without: "Collection[str]",
) -> SealedTeacher:
    view.check_structure()
    passes = {name: _pass(view, name, indexes.get((view.teacher_id, name)), new_indexes) for name in view.passes}
    base = teacher_folder(view.teacher_id)
    classes: dict[str, dict[str, str]] = {}
    for output in averaged_outputs(view):
        for name in set_names(view, output):
            folder = class_folder(view.teacher_id, name, output)
            if folder not in without:
                classes.setdefault(name, {})[output] = _group(view.store, folder)
    folders = {name: f"{base}/heads/{name}" for name in head_names(view)}
    heads = {name: _group(view.store, folder) for name, folder in folders.items() if folder not in without}
    return SealedTeacher(_group(view.store, base), passes, classes, heads)


def _group(store: "EmbeddingStore", folder: str) -> str:
    """The digest of a sealed group."""
    key = f"{folder}/{ROOT}"
    return unseal_group(fetch(store.storage, key), key).own_digest


def _pass(view: "TeacherView", pass_id: str, index: SealedIndex | None, new: dict[str, bytes]) -> SealedPass:
    """What a catalogue says of a pass; the bytes of an index that is not there yet go into ``new``, under its key."""
    plan = view.passes[pass_id]
    if index is None:
        return SealedPass(plan.digest)
    data, digest = seal(index.to_json()), digest_of(index.to_json())
    sealed = None if view.store.catalogue is None else view.store.catalogue.pass_of(view.teacher_id, pass_id)
    if sealed is not None and digest == sealed.index_digest:
        return sealed
    if len(data) > MAX_MANIFEST_BYTES:
        raise FormatError(
            f"{pass_id} of {view.teacher_id}: expected an index of up to {MAX_MANIFEST_BYTES} bytes, got {len(data)}"
        )
    number = _free_number(view, pass_id, data)
    new[index_key(view.teacher_id, pass_id, number)] = data
    error = {name: columns.joined() for name, columns in index.error.items()}
    return SealedPass(plan.digest, number, digest, len(index.slots), error)


def _merged(view: "TeacherView", pass_id: str, slots: "Sequence[Slot]", watch: "Progress") -> SealedIndex | None:
    """The index of these slots: what is sealed already, and the commits that were made since."""
    there = view.log.index(pass_id)
    known = frozenset() if there is None else frozenset(there.slots.tolist())
    left = [slot for slot in slots if slot.index not in known]
    parts = [] if there is None else [there.kept(frozenset(slot.index for slot in slots), view.store.slots)]
    watch.begin(f"seal {pass_id} of {view.teacher_id}", len(left), "slots")
    try:
        for at in range(0, len(left), _BATCH_SLOTS):
            parts.append(_index_of(view, pass_id, left[at : at + _BATCH_SLOTS]))
            watch.advance(len(left[at : at + _BATCH_SLOTS]))
    finally:
        watch.end()
    found = [part for part in parts if part is not None]
    return SealedIndex.joined(found, view.store.slots) if found else None


def _index_of(view: "TeacherView", pass_id: str, slots: "Sequence[Slot]") -> SealedIndex | None:
    """The index of the commits that are there."""
    read = [(slot, view.log.read_commit(slot, pass_id)) for slot in slots]
    found = [(slot, *commit) for slot, commit in read if commit is not None]
    for slot, commit, _ in found:
        if [record.key for record in commit.objects] != view.log.object_keys(slot, pass_id):
            key = commit_key(view.teacher_id, pass_id, slot.index)
            raise IntegrityError(f"{key} does not name the objects of its slot; run embedkd store repair")
    return SealedIndex.of([c for _, c, _ in found], [d for *_, d in found], [s for s, *_ in found]) if found else None


def _free_number(view: "TeacherView", pass_id: str, data: bytes) -> int:
    """The number of a new index: the first that is free, or that an interrupted seal gave to the same index."""
    catalogue = view.store.catalogue
    sealed = None if catalogue is None else catalogue.pass_of(view.teacher_id, pass_id)
    number = 0 if sealed is None or sealed.index is None else sealed.index + 1
    while view.store.storage.exists(key := index_key(view.teacher_id, pass_id, number)):
        if view.store.storage.get(key, limit_bytes=len(data)) == data:
            break
        number += 1
    return number
