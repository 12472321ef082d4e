"""What lies between the rows: the teacher's specification, and every ``zarr.json`` that readers of arrays believe."""

from typing import TYPE_CHECKING

from embedkd.errors import FormatError, IntegrityError
from embedkd.records import TeacherSpec
from embedkd.store import catalogue, manifest
from embedkd.store.access import GROUP, fetch, fetch_expected
from embedkd.store.documents import unseal_group
from embedkd.store.passes import pass_folder
from embedkd.store.schema import ROOT, ArraySchema, check_output, is_teacher_id, shelf_metadata, teacher_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.view import TeacherView


def read_spec(store: "EmbeddingStore", teacher_id: str) -> TeacherSpec:
    """The specification of a teacher, after it was checked against its folder's name.

    Raises:
        FormatError: It is no specification of format 1, or has an output that the format cannot hold.
        IntegrityError: It was changed, is not there, or is another teacher's.
    """
    if not is_teacher_id(teacher_id):
        raise FormatError(f"expected a teacher folder <model>-<8 hexadecimal digits>, got {teacher_id!r}")
    folder = teacher_folder(teacher_id)
    attributes = unseal_group(fetch(store.storage, f"{folder}/{ROOT}"), f"{folder}/{ROOT}")
    fingerprint, facts = attributes.digest("fingerprint"), attributes.member("spec")
    for name in ("name", "model", "weights_sha256", "precision", "source"):
        facts.text(name)
    try:
        spec = TeacherSpec.from_json(facts.content)
        for output in spec.outputs:
            check_output(output)
        derived = (spec.fingerprint, spec.teacher_id)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{folder}: expected a teacher's specification: {error}") from error
    if derived != (fingerprint, teacher_id):
        raise IntegrityError(f"{folder} holds the specification of another teacher ({derived[1]}); restore it")
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
    generation = store.manifest.generation
    for other in (*range(generation - 1, -1, -1), *_later_generations(store)):
        slots = len(manifest.read_manifest(store.storage, other, store.capacity).slots)
        if found == schema.of_slots(slots, store.capacity).metadata():
            return slots < len(store.slots)
    raise IntegrityError(f"{schema.path}/{ROOT} is not what the store's specification derives; restore it")


def _later_generations(store: "EmbeddingStore") -> "Iterator[int]":
    generation = store.manifest.generation + 1
    while store.storage.exists(f"{manifest.FOLDER}/{generation}.json"):
        yield generation
        generation += 1
