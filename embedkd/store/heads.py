"""Heads: linear maps from stored rows to logits, as a store keeps them. The stage `embedkd.heads` makes them.

A head that was fitted to the labels of the training split knows these labels by heart. So it is kept as several linear
maps: number 0 was fitted to all training rows, number f + 1 to those outside fold f, and a training row is only ever
given to the map that never saw its fold.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import FormatError, IntegrityError, ObjectMissingError, StoreError, UnknownNameError
from embedkd.records import canonical_json
from embedkd.store.access import GROUP, fetch, fetch_expected, put_or_keep
from embedkd.store.commits import ObjectRecord
from embedkd.store.documents import seal_group, unseal_group
from embedkd.store.encoding import decode_chunk, encode_chunk
from embedkd.store.schema import MAX_CHUNK_BYTES, MAX_DIM, ROOT, ArraySchema, is_set_name, teacher_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedkd.records import Split, TeacherSpec
    from embedkd.store.documents import Fields
    from embedkd.store.view import TeacherView

MAX_FOLDS = 64
KINDS = ("linear", "zero-shot")
_FOLD_STREAM = b"fold"


@dataclass(frozen=True)
class Head:
    """One head: M linear maps, 1 of a head that was not fitted, else 1 + folds.

    Attributes:
        name: Of the head.
        kind: "linear" or "zero-shot".
        output: The rows that it reads.
        weight: float32 [M, C, D].
        bias: float32 [M, C].
        normalise: Whether rows are brought to length 1 before.
        folds: Number of folds of the training split; 0 where nothing was fitted.
        seed: Divides the training split into folds.
        l2: Strength of the penalty that it was fitted with; None where nothing was fitted.
        made_from: Digest over what it was made from.
    """

    name: str
    kind: str
    output: str
    weight: "NDArray[np.float32]"
    bias: "NDArray[np.float32]"
    normalise: bool
    folds: int
    seed: int
    l2: float | None
    made_from: str

    @property
    def classes(self) -> int:
        """C."""
        return int(self.weight.shape[1])

    @property
    def sha256(self) -> str:
        """SHA-256 over all that decides the logits of a row, its teacher aside; 64 hexadecimal digits."""
        facts = [self.kind, self.normalise, self.folds, self.seed, list(self.weight.shape)]
        digest = hashlib.sha256(canonical_json(facts))
        for array in (self.weight, self.bias):
            digest.update(np.ascontiguousarray(array, "<f4").tobytes())
        return digest.hexdigest()

    @cached_property
    def _maps(self) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        return self.weight.astype(np.float64), self.bias.astype(np.float64)

    def logits(
        self, rows: "NDArray[np.floating[Any]]", keys: "NDArray[np.uint64]", split: "Split"
    ) -> "NDArray[np.float32]":
        """What the head says of rows; computed in float64, so that rounding hides the order of sums.

        Args:
            rows: [n, D], NaN where there is none.
            keys: u64 [n] of the samples.
            split: Theirs; rows of ``train`` go to the maps that never saw their folds.

        Returns:
            float32 [n, C], NaN where the row is NaN or has no length to normalise.
        """
        values = rows.astype(np.float64)
        if self.normalise:
            with np.errstate(invalid="ignore", divide="ignore"):
                values /= np.linalg.norm(values, axis=1, keepdims=True)
        fitted = split == "train" and self.folds > 0
        which = 1 + folds_of(keys, self.folds, self.seed) if fitted else np.zeros(len(keys), np.int64)
        said = np.empty((len(rows), self.classes), np.float32)
        weight, bias = self._maps
        for number in np.unique(which).tolist():
            said[which == number] = values[which == number] @ weight[number].T + bias[number]
        return said


def folds_of(keys: "NDArray[np.uint64]", folds: int, seed: int) -> "NDArray[np.int64]":
    """The fold of each sample, from 0: a function of seed and key alone, so it survives appending and merging.

    Args:
        keys: u64 [n].
        folds: How many there are.
        seed: Of the division.
    """
    return (ranks(keys, seed, _FOLD_STREAM) % np.uint64(folds)).astype(np.int64)


def ranks(keys: "NDArray[np.uint64]", seed: int, stream: bytes) -> "NDArray[np.uint64]":
    """A u64 a sample that is a function of seed and key alone, for choices that outlive appending and merging.

    Args:
        keys: u64 [n].
        seed: Of the choice.
        stream: What is chosen, up to 16 bytes; different streams know nothing of each other.
    """
    blake2b = partial(hashlib.blake2b, digest_size=8, key=b"%d" % seed, person=stream)
    digests = (blake2b(int(key).to_bytes(8, "little")).digest() for key in keys)
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


def is_derived(spec: "TeacherSpec") -> bool:
    """Whether a head made this teacher out of another one's rows."""
    return spec.model.startswith(tuple(f"{kind} head on " for kind in KINDS))


def is_head_on(spec: "TeacherSpec", base: "TeacherSpec") -> bool:
    """Whether a head made this teacher out of that one's rows."""
    return is_derived(spec) and spec.derived_from == f"{base.name} {base.fingerprint}"


def head_names(view: "TeacherView") -> list[str]:
    """Names of a teacher's finished heads, sorted: their last write is there."""
    storage = view.store.storage
    names = [name for name in storage.list_names(_shelf(view)) if is_set_name(name)]
    return [name for name in names if storage.exists(f"{_shelf(view)}/{name}/{ROOT}")]


def check_name(name: str) -> None:
    """Refuse a name that is no folder.

    Raises:
        FormatError: It is not.
    """
    if not is_set_name(name):
        raise FormatError(f"expected a head's name of a-z, 0-9, '.', '-' and '_', got {name!r}")


def write_head(view: "TeacherView", head: Head) -> None:
    """Put a head into the store; a head of that name with the same content is left as it is.

    Raises:
        FormatError: The format cannot hold its name or its size.
        StoreError: A head of that name holds something else.
    """
    check_name(head.name)
    schemas = head_schemas(view, head.name, head.weight.shape)
    _put_same(view, f"{_shelf(view)}/{ROOT}", GROUP, head.name)
    objects = []
    for part, schema in schemas.items():
        _put_same(view, f"{schema.path}/{ROOT}", schema.metadata(), head.name)
        for number, one in enumerate(getattr(head, part)):
            chunk = encode_chunk(schema, one[None])
            _put_same(view, schema.chunk_key(number), chunk, head.name)
            objects.append(ObjectRecord.of(schema.chunk_key(number), chunk).to_json())
    attributes = {
        "fingerprint": view.spec.fingerprint,
        "head": head.name,
        "kind": head.kind,
        "output": head.output,
        "generation": view.store.manifest.generation,
        "classes": head.classes,
        "normalise": head.normalise,
        "folds": head.folds,
        "seed": head.seed,
        "l2": head.l2,
        "made_from": head.made_from,
        "objects": objects,
    }
    _put_same(view, f"{_shelf(view)}/{head.name}/{ROOT}", seal_group(attributes), head.name)


def read_head(view: "TeacherView", name: str) -> Head:
    """Read one head, every object checked by length, trailer and BLAKE2b.

    Raises:
        UnknownNameError: No finished head is called so.
        IntegrityError: Something of it is missing or not what was written.
        FormatError: Its numbers are outside what the format allows.
    """
    if name not in head_names(view):
        raise UnknownNameError(f"head of {view.spec.name}", name, head_names(view))
    view.check_structure()
    fetch_expected(view.store.storage, _shelf(view), GROUP)
    key = f"{_shelf(view)}/{name}/{ROOT}"
    facts = unseal_group(fetch(view.store.storage, key), key)
    if (facts.text("head"), facts.digest("fingerprint")) != (name, view.spec.fingerprint):
        raise IntegrityError(f"{key} belongs to another head or teacher; restore it")
    folds, kind, output = facts.number("folds", high=MAX_FOLDS), facts.text("kind"), facts.text("output")
    spec = view.spec.output(output)
    if kind not in KINDS or spec is None or (folds >= 2) != (kind == "linear"):
        raise FormatError(f"{key}: expected a linear head of 2 folds or more, or a zero-shot one, got {kind} {folds}")
    classes = facts.number("classes", low=1, high=MAX_DIM)
    names = view.store.class_names
    if names is not None and classes != len(names):
        raise IntegrityError(f"{key} has {classes} classes, the manifest names {len(names)}")
    arrays = _read_arrays(view, name, (folds + 1 if folds else 1, classes, spec.dim), facts)
    return Head(
        name=name,
        kind=kind,
        output=output,
        weight=arrays["weight"],
        bias=arrays["bias"],
        normalise=facts.flag("normalise"),
        folds=folds,
        seed=facts.number("seed", low=-(1 << 63)),
        l2=_strength(facts),
        made_from=facts.digest("made_from"),
    )


def _read_arrays(
    view: "TeacherView", name: str, shape: tuple[int, int, int], facts: "Fields"
) -> "dict[str, NDArray[np.float32]]":
    schemas = head_schemas(view, name, shape)
    records = [ObjectRecord.from_json(entry) for entry in facts.objects("objects", 2 * (MAX_FOLDS + 1))]
    keys = [schema.chunk_key(number) for schema in schemas.values() for number in range(shape[0])]
    if [record.key for record in records] != keys:
        raise IntegrityError(f"{facts.where} does not vouch for the objects of {shape[0]} maps; restore it")
    found = iter(records)
    arrays = {}
    for part, schema in schemas.items():
        fetch_expected(view.store.storage, schema.path, schema.metadata())
        maps = [_read_object(view, schema, next(found)) for _ in range(shape[0])]
        arrays[part] = np.concatenate(maps).astype(np.float32)
        if not np.isfinite(arrays[part]).all():
            raise IntegrityError(f"{schema.path} holds values that are not finite; restore it")
    return arrays


def _read_object(view: "TeacherView", schema: ArraySchema, record: ObjectRecord) -> "NDArray[np.generic]":
    try:
        data = view.store.storage.get(record.key, limit_bytes=schema.object_limit_bytes)
    except ObjectMissingError as error:
        raise IntegrityError(f"{record.key} is gone; restore it, or make the head again under another name") from error
    record.check(data, thorough=True)
    return decode_chunk(schema, data)


def _strength(facts: "Fields") -> float | None:
    value = facts.content.get("l2")
    if value is not None and not (type(value) is float and 0 < value < math.inf):
        raise FormatError(f"{facts.where}: expected l2 above 0, or null, got {str(value)[:60]}")
    return value


def head_schemas(view: "TeacherView", name: str, shape: tuple[int, ...]) -> dict[str, ArraySchema]:
    """``weight`` and ``bias``: one chunk a map.

    Raises:
        FormatError: There are more classes than an output may be wide.
    """
    maps, classes, dim = shape
    if not 1 <= classes <= MAX_DIM:
        raise FormatError(f"head '{name}': expected 1 to {MAX_DIM} classes, got {classes}")
    if (size := 4 * math.prod(shape)) > MAX_CHUNK_BYTES:
        raise FormatError(
            f"head '{name}': expected weights of up to {MAX_CHUNK_BYTES} bytes in all maps, got {size}; use fewer folds"
        )
    base = f"{_shelf(view)}/{name}"
    return {
        "weight": ArraySchema(f"{base}/weight", "float32", (maps, classes, dim), (1, classes, dim)),
        "bias": ArraySchema(f"{base}/bias", "float32", (maps, classes), (1, classes)),
    }


def _shelf(view: "TeacherView") -> str:
    return f"{teacher_folder(view.teacher_id)}/heads"


def _put_same(view: "TeacherView", key: str, data: bytes, name: str) -> None:
    if put_or_keep(view.store.storage, key, data) != data:
        raise StoreError(f"head '{name}' is there with other content ({key}); give the new one another --name")
