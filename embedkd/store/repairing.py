"""Repairing: what is broken is taken away, so that precompute makes it again; what is whole is never touched.

Sealed slots that are broken leave the seal first, then broken objects go, then the commits that vouched for them: at
every moment a reader finds a slot that is whole, or broken as before, or a hole; and the next repair goes on.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedkd.errors import IntegrityError, ObjectMissingError, StoreError
from embedkd.progress import Silent
from embedkd.store.documents import MAX_DOCUMENT_BYTES
from embedkd.store.dropping import broken_parts
from embedkd.store.encoding import decode_chunk
from embedkd.store.inventory import StoredObject, read_object
from embedkd.store.passes import commit_key
from embedkd.store.reader import open_store
from embedkd.store.schema import ROOT
from embedkd.store.sealing import write_seal
from embedkd.store.structure import check_array, derived

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedkd.progress import Progress
    from embedkd.storage import Storage
    from embedkd.store.commits import Commit, ObjectRecord
    from embedkd.store.manifest import Slot
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.sealed import SealedIndex
    from embedkd.store.view import TeacherView


@dataclass
class RepairReport:
    """What was found, and taken away or would be.

    Attributes:
        metadata: Array metadata that was restored; it follows from the rest.
        commits: Commits that were dropped.
        objects: Broken objects that were dropped.
        parts: Objects of broken class sets and heads, which were dropped as a whole.
        problems: A line for every broken commit, class set and head.
    """

    metadata: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def repair_store(storage: "Storage", *, progress: "Progress | None" = None, dry_run: bool = False) -> RepairReport:
    """Find every slot that is broken, and make it a hole; drop every class set and head that is broken.

    Every object is read. Heads that are dropped leave the rows that they made, which say what they said.

    Args:
        storage: The store.
        progress: Who watches.
        dry_run: Look, and change nothing.

    Raises:
        StoreError: The root group, a manifest, a specification, a pass or the seal is broken: nothing says what should
            be there, so it has to come from a copy.
    """
    watch, store, report = progress or Silent(), open_store(storage), RepairReport()
    views = [store.teacher(name) for name in store.teacher_ids]
    for key, data in {key: data for view in views for key, data in _broken_metadata(view)}.items():
        report.metadata.append(key)
        if not dry_run:
            store.storage.replace(key, data)
    for view in views:
        view.skip_structure()
    broken: set[tuple[str, str, int]] = set()
    watch.begin("look", len(store.slots), "slots")
    try:
        for slot in store.slots:
            found = _look(views, slot)
            if found.problems or found.objects:  # what was cut on its way here is whole where it lies: look again
                found = found.both(_look(views, slot))
            broken |= {(*of, slot.index) for of in found.problems}
            _report(found, slot, store.storage, report)
            watch.advance(1)
    finally:
        watch.end()
    parts = [part for view in views for part in broken_parts(view)]
    report.problems += [f"{part.folder}: {part.problem}" for part in parts]
    report.parts += [key for part in parts for key in part.keys]
    if not dry_run:
        _unseal(store, broken, {part.folder for part in parts})
        for key in (*report.objects, *report.commits, *report.parts):
            store.storage.remove(key)
    return report


def _broken_metadata(view: "TeacherView") -> "Iterator[tuple[str, bytes]]":
    """Metadata that is not what it must be, and what it must be."""
    storage = view.store.storage
    for folder, metadata, schema in derived(view):
        key = f"{folder}/{ROOT}"
        try:
            found = storage.get(key, limit_bytes=MAX_DOCUMENT_BYTES)
            if found == metadata or (schema is not None and not check_array(view.store, schema, found)):
                continue
        except (ObjectMissingError, IntegrityError):
            pass
        yield key, metadata


@dataclass(frozen=True)
class _Findings:
    """What is wrong with one slot.

    Attributes:
        problems: Teacher and pass to what is wrong with it.
        objects: Broken objects.
    """

    problems: dict[tuple[str, str], str]
    objects: set[str]

    def both(self, other: "_Findings") -> "_Findings":
        """What both found."""
        problems = {of: problem for of, problem in self.problems.items() if of in other.problems}
        return _Findings(problems, self.objects & other.objects)


def _look(views: "list[TeacherView]", slot: "Slot") -> _Findings:
    """Read one slot of all passes."""
    problems: dict[tuple[str, str], str] = {}
    suspect: set[str] = set()
    whole: set[str] = set()  # passes share objects: what one commit rightly vouches for stays
    for view in views:
        for pass_id in view.passes:
            problem = _problem(view, pass_id, slot, suspect, whole)
            if problem is not None:
                problems[view.teacher_id, pass_id] = problem
    return _Findings(problems, suspect - whole)


def _report(found: _Findings, slot: "Slot", storage: "Storage", report: RepairReport) -> None:
    for (teacher_id, pass_id), problem in found.problems.items():
        key = commit_key(teacher_id, pass_id, slot.index)
        report.problems.append(f"{key}: {problem}")
        if storage.exists(key):
            report.commits.append(key)
    report.objects += sorted(key for key in found.objects if storage.exists(key))


def _problem(view: "TeacherView", pass_id: str, slot: "Slot", suspect: set[str], whole: set[str]) -> str | None:
    """What is wrong with one slot of one pass, None where it is whole or was never committed."""
    problem: str | None = None
    commits: list[Commit] = []
    index = view.log.index(pass_id)
    at = None if index is None else index.place(slot.index)
    try:
        read = view.log.read_commit(slot, pass_id)
        if read is not None:
            commits.append(read[0])
            if index is not None and at is not None and index.commits[at].tobytes().hex() != read[1]:
                problem = "it is not the one that was sealed"
    except StoreError as error:
        problem = str(error)
    if index is not None and at is not None and (problem is not None or not commits):
        commits.append(index.commit(at, slot, view.log.object_keys(slot, pass_id)))
    if not commits:  # also of a hole: a writer would stop at an object that it cannot read
        suspect.update(_undecodable(view, pass_id, slot))
        return problem
    keys = view.log.object_keys(slot, pass_id)
    for place, key in enumerate(keys):
        records = [c.objects[place] for c in commits if len(c.objects) == len(keys) and c.objects[place].key == key]
        fault = _fault(view, records)
        if fault is None:
            whole.add(key)
        else:
            suspect.add(key)
            problem = problem or fault
    return problem or _nonsense(view, pass_id, slot, suspect, whole)


def _fault(view: "TeacherView", records: "list[ObjectRecord]") -> str | None:
    """Why an object is none of those that are recorded."""
    fault: str | None = "it does not name the objects of its slot"
    for record in records:
        try:
            read_object(view.store, StoredObject(record.key, record))
        except IntegrityError as error:
            fault = str(error)
        else:
            return None
    return fault


def _nonsense(view: "TeacherView", pass_id: str, slot: "Slot", suspect: set[str], whole: set[str]) -> str | None:
    """Why objects that are those that were recorded cannot be right."""
    for output in view.passes[pass_id].outputs:
        try:
            view.read(slot, output)
        except StoreError as error:
            keys = {schema.chunk_key(slot.index) for schema in view.output_schemas(output)}
            suspect |= keys
            whole -= keys
            return str(error)
    return None


def _undecodable(view: "TeacherView", pass_id: str, slot: "Slot") -> "Iterator[str]":
    """Objects that no writer could take, of a slot without a commit that says what they were."""
    outputs = view.passes[pass_id].outputs
    schemas = (*view.row_schemas(), *(schema for output in outputs for schema in view.output_schemas(output)))
    for schema in schemas:
        key = schema.chunk_key(slot.index)
        try:
            decode_chunk(schema, view.store.storage.get(key, limit_bytes=schema.object_limit_bytes))
        except ObjectMissingError:
            continue
        except IntegrityError:
            yield key


def _unseal(store: "EmbeddingStore", broken: set[tuple[str, str, int]], parts: set[str]) -> None:
    """Make a seal without the slots, class sets and heads that are broken, where one holds them.

    Args:
        store: The store.
        broken: Teacher, pass and slot of each slot.
        parts: Folders of class sets and heads.
    """
    indexes: dict[tuple[str, str], SealedIndex] = {}
    changed = bool(parts) and store.catalogue is not None
    for teacher_id in store.teacher_ids:
        view = store.teacher(teacher_id)
        for pass_id in view.passes:
            index = view.log.index(pass_id)
            if index is None:
                continue
            sealed = frozenset(index.slots.tolist())
            left = sealed - {slot for *of, slot in broken if of == [teacher_id, pass_id]}
            changed |= left != sealed
            kept = index.kept(left, store.slots)
            if kept is not None:
                indexes[teacher_id, pass_id] = kept
    if changed:
        write_seal(store, indexes, without=parts)
