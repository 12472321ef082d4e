"""What lies between the rows: the teacher's specification, and every ``zarr.json`` that readers of arrays believe."""

from typing import TYPE_CHECKING

from embedkd.errors import FormatError, IntegrityError
from embedkd.records import TeacherSpec
from embedkd.store import manifest
from embedkd.store.access import GROUP, fetch, fetch_expected
from embedkd.store.documents import unseal_group
from embedkd.store.passes import pass_folder
from embedkd.store.schema import ROOT, check_output, is_teacher_id, shelf_metadata, teacher_folder

if TYPE_CHECKING:
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
    expected = {"rows": GROUP, "teachers": GROUP, manifest.FOLDER: shelf_metadata()}
    expected |= {pass_folder(view.teacher_id, name): shelf_metadata() for name in view.passes}
    schemas = [schema for output in view.outputs for schema in view.output_schemas(output)]
    expected |= {schema.path: schema.metadata() for schema in (*view.row_schemas(), *schemas)}
    for folder, metadata in expected.items():
        fetch_expected(view.store.storage, folder, metadata)
