"""Class sets: one mean embedding a class, as a store keeps them. `averaging` makes them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from embedkd.errors import (
    ConfigError,
    FormatError,
    HoleError,
    IntegrityError,
    ObjectMissingError,
    StoreError,
    UnknownNameError,
)
from embedkd.records import OutputSpec, blake2b_hex, canonical_json
from embedkd.store.access import GROUP, fetch, fetch_expected, put_or_keep
from embedkd.store.commits import ObjectRecord
from embedkd.store.documents import seal_group, unseal_group
from embedkd.store.encoding import decode_chunk, encode_chunk
from embedkd.store.schema import (
    MAX_CLASSES,
    MAX_PROMPTS,
    ROOT,
    class_folder,
    class_schemas,
    is_set_name,
    teacher_folder,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from embedkd.store.documents import Fields
    from embedkd.store.schema import ArraySchema
    from embedkd.store.view import TeacherView

Method = Literal["mean", "median", "trimmed"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class ClassSet:
    """Class-averaged embeddings of one output.

    Attributes:
        name: Of the set.
        mean: float32 [C, D], the centre of each class by `method`; NaN for a class without samples.
        count: int64 [C], samples averaged.
        spread: float32 [C], root mean square distance of the samples from their centre; NaN without samples.
        samples_per_class: At most this many samples were drawn from a class.
        seed: Of the draw.
        commits: Digest over the committed objects that the rows came from.
        prompts: Templates that the class names were put into, where the means are of texts and not of rows; the number
            of samples is theirs then, and the digest is `prompts_digest`.
        method: "mean", or for each dimension "median" or "trimmed", the mean without the largest and smallest values.
        trim: The share of values that "trimmed" left out at each side; None for the others.
    """

    name: str
    mean: "NDArray[np.float32]"
    count: "NDArray[np.int64]"
    spread: "NDArray[np.float32]"
    samples_per_class: int
    seed: int
    commits: str
    prompts: tuple[str, ...] = ()
    method: Method = "mean"
    trim: float | None = None


def prompts_digest(prompts: "Sequence[str]", class_names: "Sequence[str]") -> str:
    """Over everything that a class set of texts is made from."""
    return blake2b_hex(canonical_json([list(prompts), list(class_names)]))


def write_class_set(view: "TeacherView", output: str, made: ClassSet) -> None:
    """Put a class set into the store; a set of that name with the same content is left as it is.

    Raises:
        FormatError: The format cannot hold its name or its size.
        StoreError: A set of that name holds something else.
    """
    if not is_set_name(made.name):
        raise FormatError(f"expected a class set name of a-z, 0-9, '.', '-' and '_', got {made.name!r}")
    schemas = _schemas(view, made.name, _output(view, output), len(made.count))
    chunks = {part: encode_chunk(schema, getattr(made, part)) for part, schema in schemas.items()}
    records = {part: ObjectRecord.of(schemas[part].chunk_key(), data) for part, data in chunks.items()}
    for folder in _groups(view, made.name):
        _put_same(view, f"{folder}/{ROOT}", GROUP, made.name)
    for part, schema in schemas.items():
        _put_same(view, f"{schema.path}/{ROOT}", schema.metadata(), made.name)
        _put_same(view, schema.chunk_key(), chunks[part], made.name)
    attributes = {
        "fingerprint": view.spec.fingerprint,
        "set": made.name,
        "output": output,
        "generation": view.store.manifest.generation,
        "classes": len(made.count),
        "samples_per_class": made.samples_per_class,
        "seed": made.seed,
        "commits": made.commits,
        "prompts": list(made.prompts),
        "method": made.method,
        "trim": made.trim,
        "arrays": {part: record.to_json() for part, record in records.items()},
    }
    key = f"{class_folder(view.teacher_id, made.name, output)}/{ROOT}"
    _put_same(view, key, seal_group(attributes), made.name)


def set_names(view: "TeacherView", output: str) -> list[str]:
    """Names of the finished class sets of one output, sorted: their last write is there."""
    exists = view.store.storage.exists
    return [name for name in _listed(view, output) if exists(set_keys(view.teacher_id, name, output)[0])]


def read_class_set(view: "TeacherView", name: str | None, output: OutputSpec) -> ClassSet:
    """Read one class set, every array checked by length, trailer and BLAKE2b.

    Args:
        view: The teacher's part of the store.
        name: The set; None for the only one, or the only one since shards were last appended.
        output: The output.

    Raises:
        HoleError: The output has no class set.
        ConfigError: It has several, and none was named.
        UnknownNameError: None is called so.
        IntegrityError: The set was begun and not finished, or an array is not the one that was written.
        FormatError: The set's numbers are outside what the format allows.
    """
    name = _choose(view, name, output.name)
    for folder in _groups(view, name):
        fetch_expected(view.store.storage, folder, GROUP)
    key = f"{class_folder(view.teacher_id, name, output.name)}/{ROOT}"
    facts = unseal_group(fetch(view.store.storage, key), key)
    of = (facts.text("set"), facts.text("output"), facts.digest("fingerprint"))
    if of != (name, output.name, view.spec.fingerprint):
        raise IntegrityError(f"{key} belongs to another class set, output or teacher; restore it, or average again")
    names = view.store.class_names
    classes = facts.number("classes", low=1, high=MAX_CLASSES)
    if names is not None and classes != len(names):
        raise IntegrityError(f"{key} has {classes} classes, the manifest names {len(names)}")
    arrays = {
        part: _read_array(view, schema, facts.member("arrays").member(part))
        for part, schema in _schemas(view, name, output, classes).items()
    }
    made = ClassSet(
        name,
        arrays["mean"].astype(np.float32, copy=False),
        arrays["count"].astype(np.int64, copy=False),
        arrays["spread"].astype(np.float32, copy=False),
        facts.number("samples_per_class", low=1),
        facts.number("seed", low=-(1 << 63)),
        facts.digest("commits"),
        facts.texts("prompts", MAX_PROMPTS),
        *_method(facts),
    )
    if made.prompts and made.commits != prompts_digest(made.prompts, names or ()):
        raise IntegrityError(f"{key} is of other class names than the manifest's; make it again under another name")
    filled = np.isfinite(made.mean).all(axis=1) & np.isfinite(made.spread)
    if (made.count < 0).any() or not np.array_equal(filled, made.count > 0):
        raise IntegrityError(f"{key}: the counts do not fit the means; average again under another name")
    return made


def _method(facts: "Fields") -> tuple[Method, float | None]:
    """How the centres were made.

    Raises:
        FormatError: In no way that is known.
    """
    method, trim = facts.text("method"), facts.content.get("trim")
    if method not in METHODS:
        raise FormatError(f"{facts.where}: expected a method of {', '.join(METHODS)}, got {method[:60]!r}")
    if (type(trim) is float and 0 < trim < 0.5) if method == "trimmed" else trim is None:
        return method, cast("float | None", trim)
    raise FormatError(f"{facts.where}: expected a share to trim that fits the method {method}, got {str(trim)[:60]}")


def _read_array(view: "TeacherView", schema: "ArraySchema", facts: "Fields") -> "NDArray[np.generic]":
    record = ObjectRecord.from_json(facts)
    fetch_expected(view.store.storage, schema.path, schema.metadata())
    try:
        data = view.store.storage.get(schema.chunk_key(), limit_bytes=schema.object_limit_bytes)
    except ObjectMissingError as error:
        raise IntegrityError(f"{schema.chunk_key()} is gone; run embedkd average again") from error
    if record.key != schema.chunk_key():
        raise IntegrityError(f"{facts.where} vouches for {record.key}; restore it")
    record.check(data, thorough=True)
    return decode_chunk(schema, data)


def averaged_outputs(view: "TeacherView") -> list[str]:
    """Outputs that have a finished class set, sorted; those of class texts need have no rows."""
    names_below, shelf = view.store.storage.list_names, f"{teacher_folder(view.teacher_id)}/classes"
    outputs = {output for name in names_below(shelf) if is_set_name(name) for output in names_below(f"{shelf}/{name}")}
    known = (output for output in sorted(outputs) if view.spec.output(output) is not None)
    return [output for output in known if set_names(view, output)]


def begun_sets(view: "TeacherView", output: str) -> list[str]:
    """Class sets of which any object is there: one that lacks its last must not make another the only one."""
    exists = view.store.storage.exists
    return [name for name in _listed(view, output) if any(map(exists, set_keys(view.teacher_id, name, output)))]


def _listed(view: "TeacherView", output: str) -> list[str]:
    """Class sets of which at least a folder is there: on a disk it outlives objects that were removed."""
    names_below = view.store.storage.list_names
    names = [name for name in names_below(f"{teacher_folder(view.teacher_id)}/classes") if is_set_name(name)]
    return [name for name in names if names_below(class_folder(view.teacher_id, name, output))]


def set_keys(teacher_id: str, name: str, output: str) -> list[str]:
    """Keys of all objects of a class set but for the groups that it shares, the last write first."""
    base = class_folder(teacher_id, name, output)
    arrays = class_schemas(teacher_id, name, output, 1, 1).values()
    return [f"{base}/{ROOT}", *(key for one in arrays for key in (one.chunk_key(), f"{one.path}/{ROOT}"))]


def _choose(view: "TeacherView", name: str | None, output: str) -> str:
    """The name of the set that is meant."""
    begun = begun_sets(view, output)
    if not begun:
        raise HoleError(f"{view.store.storage.url} has no class set of {output}; make one with embedkd average")
    if name is not None:
        if name not in begun:
            raise UnknownNameError(f"class set of {output}", name, begun)
        return name
    recent = begun if len(begun) == 1 else [one for one in begun if not is_outdated(view, one, output)]
    if len(recent) != 1:
        raise ConfigError(
            f"{output} has {len(begun)} class sets; name one with --class-set or name= (known: {', '.join(begun)})"
        )
    return recent[0]


def is_outdated(view: "TeacherView", name: str, output: str) -> bool:
    """Whether a finished set was made before shards were appended."""
    key = f"{class_folder(view.teacher_id, name, output)}/{ROOT}"
    if not view.store.storage.exists(key):
        return False
    facts = unseal_group(fetch(view.store.storage, key), key)
    return facts.number("generation") < view.store.manifest.generation


def _groups(view: "TeacherView", name: str) -> tuple[str, str]:
    shelf = f"{teacher_folder(view.teacher_id)}/classes"
    return shelf, f"{shelf}/{name}"


def _schemas(view: "TeacherView", name: str, output: OutputSpec, classes: int) -> "dict[str, ArraySchema]":
    if not 1 <= classes <= MAX_CLASSES:
        raise FormatError(f"class set '{name}': expected 1 to {MAX_CLASSES} classes, got {classes}")
    return class_schemas(view.teacher_id, name, output.name, classes, output.dim)


def _output(view: "TeacherView", output: str) -> OutputSpec:
    spec = view.spec.output(output)
    if spec is None:
        raise UnknownNameError(f"output of {view.spec.name}", output, [o.name for o in view.spec.outputs])
    return spec


def _put_same(view: "TeacherView", key: str, data: bytes, name: str) -> None:
    if put_or_keep(view.store.storage, key, data) != data:
        raise StoreError(f"class set '{name}' is there with other content ({key}); give the new one another --name")
