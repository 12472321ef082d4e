"""Writing rows: whole objects, each created once, and a commit last.

Any number of writers may work on one store without talking to each other. Nothing is ever overwritten: who comes second
finds the object there, and takes it if it says the same.
"""

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import ConflictError, FormatError, IntegrityError, StoreError
from embedkd.records import OutputSpec, RowStatus, TeacherSpec
from embedkd.store.access import GROUP, put_or_keep
from embedkd.store.commits import Commit, ObjectRecord, keys_digest, status_counts
from embedkd.store.documents import Fields, seal, seal_group, unseal, unseal_group
from embedkd.store.encoding import decode_chunk, encode_chunk, quantise
from embedkd.store.passes import Pass, commit_key, pass_folder
from embedkd.store.schema import (
    ROOT,
    ArraySchema,
    check_output,
    is_teacher_id,
    output_schemas,
    row_schemas,
    shelf_metadata,
    teacher_folder,
)
from embedkd.store.structure import check_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from embedkd.store.manifest import Slot
    from embedkd.store.reader import EmbeddingStore

SAME_COSINE = 0.9999  # two forward passes of one teacher on two machines agree at least this well
SAME_NORM = 0.01  # and their rows are about as long: a cosine does not see another logit scale


@dataclass(frozen=True)
class SlotRows:
    """Everything one teacher says of one slot.

    Attributes:
        keys: u64 [n], BLAKE2b-64 of the samples' keys.
        labels: i32 [n], -1 where a sample has none.
        outputs: Name to float32 [n, D]; rows of samples that could not be read are NaN.
        status: Name to u8 [n]: OK, or why this output could not be had.
        source: ``url``, ``bytes`` and ``blake2b`` of the tar as it was streamed.
    """

    keys: "NDArray[np.uint64]"
    labels: "NDArray[np.int32]"
    outputs: "Mapping[str, NDArray[np.float32]]"
    status: "Mapping[str, NDArray[np.uint8]]"
    source: "Mapping[str, Any]"


class PassWriter:
    """Writes the slots of one pass.

    Args:
        store: The store, as `create_store` gave it.
        spec: The teacher.
        wanted: Outputs and compute settings. Where the pass exists already, its recorded settings win: see `plan`.

    Attributes:
        plan: The pass as recorded in the store.

    Raises:
        FormatError: The format cannot hold the teacher's name or an output.
        StoreError: The teacher has no such output, or what lies in its folder is not what it derives.
    """

    def __init__(self, store: "EmbeddingStore", spec: TeacherSpec, wanted: Pass) -> None:
        self._storage = store.storage
        self._store = store
        self._spec = spec
        self._id = spec.teacher_id
        if not is_teacher_id(self._id):
            raise FormatError(f"expected a teacher's name that makes a folder name, got '{spec.name}' ({self._id})")
        Pass.from_json(Fields(wanted.to_json(), "the new pass"))
        self._outputs = [self._output(name) for name in wanted.outputs]
        self._put_teacher()
        for folder in ("teachers", "rows"):
            self._put_exactly(f"{folder}/{ROOT}", GROUP)
        for schema in (*row_schemas(len(store.slots), store.capacity), *self._schemas()):
            put_array(store, schema)
        folder = pass_folder(self._id, wanted.pass_id)
        self._put_exactly(f"{folder}/{ROOT}", shelf_metadata())
        recorded = put_or_keep(self._storage, f"{folder}/pass.json", seal(wanted.to_json()))
        self.plan = Pass.from_json(unseal(recorded, f"{folder}/pass.json"))
        if self.plan.outputs != wanted.outputs:
            raise IntegrityError(f"{folder}/pass.json is of other outputs ({', '.join(self.plan.outputs)}); restore it")

    def _put_teacher(self) -> None:
        key = f"{teacher_folder(self._id)}/{ROOT}"
        there = unseal_group(put_or_keep(self._storage, key, seal_group(teacher_attributes(self._spec))), key)
        if there.digest("fingerprint") != self._spec.fingerprint:
            raise ConflictError(f"{key} is another teacher with the same first digits; use another --out")

    def _put_exactly(self, key: str, data: bytes) -> None:
        if put_or_keep(self._storage, key, data) != data:
            raise IntegrityError(f"{key} is not what the store's specification derives; restore it")

    def _output(self, name: str) -> OutputSpec:
        output = self._spec.output(name)
        if output is None:
            raise StoreError(f"{self._spec.name} has no output '{name}'; it has: {self._spec.offer}")
        check_output(output)
        return output

    def _schemas(self) -> "Iterator[ArraySchema]":
        for output in self._outputs:
            yield from output_schemas(self._id, output, len(self._store.slots), self._store.capacity)

    def is_committed(self, slot: "Slot") -> bool:
        """Whether the slot's commit is there."""
        return self._storage.exists(commit_key(self._id, self.plan.pass_id, slot.index))

    def write(self, slot: "Slot", rows: SlotRows, attempt: "Mapping[str, Any]") -> Commit:
        """Put all objects of a slot, then its commit.

        Args:
            slot: The slot.
            rows: What the teacher said.
            attempt: Facts about this run that may differ between runs, as JSON values.

        Returns:
            The commit that stands in the store: this one, or an equal one that another writer put first.

        Raises:
            StoreError: The rows are not those of this slot; nothing was written.
            ConflictError: Another writer put something else.
        """
        self._check_rows(slot, rows)
        objects: list[ObjectRecord] = []
        ok: dict[str, int] = {}
        bad: dict[str, dict[str, int]] = {}
        for schema, values in self._chunks(rows, ok, bad):
            objects.append(self._put_chunk(schema, slot.index, encode_chunk(schema, values)))
        commit = Commit(
            slot=slot.index,
            pass_digest=self.plan.digest,
            fingerprint=self._spec.fingerprint,
            decode=self._store.decode_digest,
            source=dict(rows.source),
            rows=slot.rows,
            keys=keys_digest(rows.keys),
            labelled=int((rows.labels >= 0).sum()),
            max_label=int(rows.labels.max(initial=-1)),
            ok=ok,
            bad=bad,
            objects=tuple(objects),
            attempt={"id": str(uuid.uuid4()), **attempt},
        )
        return self._put_commit(commit)

    def adopt(self, slot: "Slot", chunks: "Sequence[bytes]", like: Commit, attempt: "Mapping[str, Any]") -> Commit:
        """Put a slot as another store holds it, byte for byte, under this store's keys.

        Args:
            slot: The slot; the other store's has the same samples and the same capacity.
            chunks: In the order of the other store's commit, each compared with it already.
            like: The other store's commit, of a pass of the same outputs.
            attempt: Facts about where it came from, as JSON values.

        Returns:
            The commit that stands in the store.

        Raises:
            ConflictError: Another writer put something else.
        """
        schemas = [*row_schemas(len(self._store.slots), self._store.capacity), *self._schemas()]
        objects = [self._put_chunk(schema, slot.index, chunk) for schema, chunk in zip(schemas, chunks, strict=True)]
        return self._put_commit(
            replace(
                like,
                slot=slot.index,
                pass_digest=self.plan.digest,
                decode=self._store.decode_digest,
                source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
                objects=tuple(objects),
                attempt={"id": str(uuid.uuid4()), **attempt},
            )
        )

    def _check_rows(self, slot: "Slot", rows: SlotRows) -> None:
        """Refuse what a reader would refuse, before anything is written.

        Raises:
            StoreError: Counts, labels, status or source do not fit the slot.
        """
        lengths = [len(rows.keys), len(rows.labels), *(len(r) for r in rows.outputs.values())]
        lengths += [len(s) for s in rows.status.values()]
        classes = self._store.class_names
        source = (rows.source["bytes"], rows.source["blake2b"])
        problems = {
            f"expected {slot.rows} rows, got {sorted(set(lengths))}": set(lengths) != {slot.rows},
            f"expected labels below {len(classes or ())}": classes is not None
            and int(rows.labels.max(initial=-1)) >= len(classes),
            "expected a label of -1 where there is none": int(rows.labels.min(initial=-1)) < -1,
            "expected a status of 1 to 5": not all(np.isin(s, list(RowStatus)[1:]).all() for s in rows.status.values()),
            "it was read from another tar": source != (slot.shard.size_bytes, slot.shard.blake2b),
        }
        for problem, found in problems.items():
            if found:
                raise StoreError(f"rows of slot {slot.index} ({slot.shard.url}) cannot be written: {problem}")

    def _chunks(
        self, rows: SlotRows, ok: dict[str, int], bad: dict[str, dict[str, int]]
    ) -> "Iterator[tuple[ArraySchema, NDArray[np.generic]]]":
        key_schema, label_schema = row_schemas(len(self._store.slots), self._store.capacity)
        yield key_schema, rows.keys
        yield label_schema, rows.labels
        for output in self._outputs:
            values, status = quantise(rows.outputs[output.name], rows.status[output.name], output.dtype)
            ok[output.name] = int((status == RowStatus.OK).sum())
            bad[output.name] = status_counts(status)
            schemas = output_schemas(self._id, output, len(self._store.slots), self._store.capacity)
            yield from zip(schemas, (values, status), strict=True)

    def _put_chunk(self, schema: ArraySchema, slot: int, data: bytes) -> ObjectRecord:
        key = schema.chunk_key(slot)
        there = put_or_keep(self._storage, key, data)
        if there != data and not same_rows(*(decode_chunk(schema, version) for version in (data, there))):
            raise ConflictError(
                f"{key} is there with other values, of other shards or by another way of computing; use another --out"
            )
        return ObjectRecord.of(key, there)

    def _put_commit(self, commit: Commit) -> Commit:
        key = commit_key(self._id, self.plan.pass_id, commit.slot)
        there = Commit.from_json(unseal(put_or_keep(self._storage, key, seal(commit.to_json())), key))
        if there.objects != commit.objects:
            raise ConflictError(
                f"{key} names other objects than are there now; remove it and run the same command again"
            )
        return there


def put_array(store: "EmbeddingStore", schema: ArraySchema) -> bool:
    """Put the metadata of an array of rows, or make it longer where it is that of an earlier generation.

    Returns:
        Whether it was there and shorter.

    Raises:
        IntegrityError: Something else is there.
    """
    key = f"{schema.path}/{ROOT}"
    short = check_array(store, schema, put_or_keep(store.storage, key, schema.metadata()))
    if short:
        store.storage.replace(key, schema.metadata())
    return short


def teacher_attributes(spec: TeacherSpec) -> dict[str, Any]:
    """Attributes of a teacher's group."""
    return {"spec": spec.to_json(), "fingerprint": spec.fingerprint}


def same_rows(ours: "NDArray[np.generic]", theirs: "NDArray[np.generic]") -> bool:
    """Whether two chunks say the same.

    Whole numbers must be equal. Rows of floats must be NaN in the same places and otherwise equal, or have a cosine of
    at least SAME_COSINE and lengths within SAME_NORM.
    """
    if not np.issubdtype(ours.dtype, np.floating):
        return bool(np.array_equal(ours, theirs))
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    differ = ~((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1)
    a, b = a[differ], b[differ]
    lengths_a, lengths_b = (np.linalg.norm(x, axis=1) for x in (a, b))
    close = (a * b).sum(axis=1) >= SAME_COSINE * lengths_a * lengths_b  # false where one of them is NaN
    return bool((close & (np.abs(lengths_a - lengths_b) <= SAME_NORM * np.maximum(lengths_a, lengths_b))).all())
