"""What lies between the rows: the teacher's specification, and every ``zarr.json`` that readers of arrays believe."""

import re
from bisect import bisect_left
from typing import TYPE_CHECKING

from embedkd.errors import FormatError, IntegrityError
from embedkd.store import catalogue, manifest
from embedkd.store.access import GROUP, fetch, fetch_expected
from embedkd.store.documents import unseal_group
from embedkd.store.passes import pass_folder
from embedkd.store.schema import ROOT, ArraySchema, is_teacher_id, output_schemas, shelf_metadata, teacher_folder
from embedkd.store.specification import read_specification

_LENGTH = re.compile(rb'"shape":\[([0-9]{1,19})[],]')

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedkd.records import TeacherSpec
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.view import TeacherView


def read_spec(store: "EmbeddingStore", teacher_id: str) -> "TeacherSpec":
    """The specification of a teacher, after it was checked against its folder's name.

    Raises:
        FormatError: It is no specification of format 1, or has an output that the format cannot hold.
        IntegrityError: It was changed, is not there, or is another teacher's.
    """
    if not is_teacher_id(teacher_id):
        raise FormatError(f"expected a teacher folder <model>-<8 hexadecimal digits>, got {teacher_id!r}")
    folder = teacher_folder(teacher_id)
    attributes = unseal_group(fetch(store.storage, f"{folder}/{ROOT}"), f"{folder}/{ROOT}")
    fingerprint, spec = attributes.digest("fingerprint"), read_specification(attributes.member("spec"))
    if (spec.fingerprint, spec.teacher_id) != (fingerprint, teacher_id):
        raise IntegrityError(f"{folder} holds the specification of another teacher ({spec.teacher_id}); restore it")
    return spec


def check_structure(view: "TeacherView") -> None:
    """Compare every ``zarr.json`` that has no digest of its own with what the specification derives.

    Raises:
        IntegrityError: One differs or is not there.
    """
    for folder, metadata, schema in derived(view):
        if schema is None:
            fetch_expected(view.store.storage, folder, metadata)
        else:
            check_array(view.store, schema, fetch(view.store.storage, f"{folder}/{ROOT}"))


def derived(view: "TeacherView") -> list[tuple[str, bytes, ArraySchema | None]]:
    """Folders whose ``zarr.json`` follows from the rest, its bytes, and the schema where it is of an array of rows.

    All of it is there once a pass is; of a teacher without one, whose writer was killed as it began, nothing need be.

    Raises:
        IntegrityError: A pass has an output that the teacher has not.
    """
    if not view.passes:
        return []
    shelves = [manifest.FOLDER, *(pass_folder(view.teacher_id, name) for name in view.passes)]
    if view.store.catalogue is not None:
        shelves.append(catalogue.FOLDER)
    outputs = [schema for output in view.outputs for schema in view.output_schemas(output)]
    return [
        ("rows", GROUP, None),
        ("teachers", GROUP, None),
        *((folder, shelf_metadata(), None) for folder in shelves),
        *((schema.path, schema.metadata(), schema) for schema in (*view.row_schemas(), *outputs)),
    ]


def schemas_of(store: "EmbeddingStore", spec: "TeacherSpec", output: str) -> tuple[ArraySchema, ...]:
    """The arrays of one output in the order in which they are written, its status last.

    Raises:
        IntegrityError: The teacher has no such output.
    """
    found = spec.output(output)
    if found is None:
        raise IntegrityError(f"{spec.teacher_id} has rows of '{output}', which its specification does not name")
    return output_schemas(spec.teacher_id, found, len(store.slots), store.capacity)


def check_array(store: "EmbeddingStore", schema: ArraySchema, found: bytes) -> bool:
    """Compare the metadata of an array of rows with what the store derives.

    While shards are being appended, and after an append that was interrupted, arrays have the length of another
    generation of the manifest. Nothing but the length may differ, and no other length.

    Returns:
        Whether it has to grow: its length is that of an earlier generation.

    Raises:
        IntegrityError: It is the metadata of no generation.
    """
    if found == schema.metadata():
        return False
    slots = _slots_of(schema, found)
    if slots is None or not _is_of_a_generation(store, slots):
        raise IntegrityError(f"{schema.path}/{ROOT} is not what the store's specification derives; restore it")
    return slots < len(store.slots)


def _slots_of(schema: ArraySchema, found: bytes) -> int | None:
    """The slots of an array that differs from a schema in its length alone; None where more differs."""
    rows = _LENGTH.search(found)
    slots = 0 if rows is None else int(rows[1]) // schema.chunk[0]
    return slots if found == schema.of_slots(slots).metadata() else None


def _is_of_a_generation(store: "EmbeddingStore", slots: int) -> bool:
    """Whether another generation of the manifest has so many slots; each has more than the one before."""

    def count(generation: int) -> int:
        return len(manifest.read_manifest(store.storage, generation, store.capacity).slots)

    earlier = range(store.manifest.generation)
    if slots < len(store.slots):
        at = bisect_left(earlier, slots, key=count)
        return at < len(earlier) and count(at) == slots
    return any(count(later) == slots for later in _later_generations(store))


def _later_generations(store: "EmbeddingStore") -> "Iterator[int]":
    generation = store.manifest.generation + 1
    while generation <= manifest.MAX_GENERATION and store.storage.exists(f"{manifest.FOLDER}/{generation}.json"):
        yield generation
        generation += 1
