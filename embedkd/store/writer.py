"""Writing rows: whole objects, each created once, and a commit last.

Any number of writers may work on one store without talking to each other. Nothing is ever overwritten: who comes second
finds the object there, and takes it if it says the same.
"""

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import ConflictError, FormatError, IntegrityError, StoreError
from embedkd.records import OutputSpec, RowStatus, TeacherSpec
from embedkd.store.access import GROUP, put_or_keep
from embedkd.store.agreeing import same_rows, same_values
from embedkd.store.commits import Commit, ObjectRecord, keys_digest, status_counts
from embedkd.store.documents import Fields, seal, seal_group, unseal, unseal_group
from embedkd.store.encoding import decode_chunk, encode_chunk
from embedkd.store.passes import Pass, commit_key, pass_folder
from embedkd.store.places import are_places
from embedkd.store.quantising import Encoded, can_lead, encode
from embedkd.store.rows import rows_of
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
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from embedkd.store.manifest import Slot
    from embedkd.store.measured import MeasuredError
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.view import SlotRead

    Encoder = Callable[[OutputSpec, NDArray[np.generic] | None], Encoded]


_HASHED_ASIDE_BYTES = 1 << 20


@dataclass(frozen=True)
class SlotRows:
    """Everything one teacher says of one slot.

    Attributes:
        keys: u64 [n], BLAKE2b-64 of the samples' keys.
        labels: i32 [n], -1 where a sample has none.
        places: u64 [n, 3], a `Place` a sample: offset, size and crc32c of its bytes in the tar.
        outputs: Name to float32 [n, D]; rows of samples that could not be read are NaN.
        status: Name to u8 [n]: OK, or why this output could not be had.
        source: ``url``, ``bytes`` and ``blake2b`` of the tar as it was streamed.
    """

    keys: "NDArray[np.uint64]"
    labels: "NDArray[np.int32]"
    places: "NDArray[np.uint64]"
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
        spec: The teacher.
        plan: The pass as recorded in the store.

    Raises:
        FormatError: The format cannot hold the teacher's name or an output.
        StoreError: The teacher has no such output, or what lies in its folder is not what it derives.
    """

    def __init__(self, store: "EmbeddingStore", spec: TeacherSpec, wanted: Pass) -> None:
        self._storage = store.storage
        self._store = store
        self.spec = spec
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
        there = unseal_group(put_or_keep(self._storage, key, seal_group(teacher_attributes(self.spec))), key)
        if there.digest("fingerprint") != self.spec.fingerprint:
            raise ConflictError(f"{key} is another teacher with the same first digits; use another --out")

    def _put_exactly(self, key: str, data: bytes) -> None:
        if put_or_keep(self._storage, key, data) != data:
            raise IntegrityError(f"{key} is not what the store's specification derives; restore it")

    def _output(self, name: str) -> OutputSpec:
        output = self.spec.output(name)
        if output is None:
            raise StoreError(f"{self.spec.name} has no output '{name}'; it has: {self.spec.offer}")
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

        def encoder(output: OutputSpec, lead: "NDArray[np.generic] | None") -> Encoded:
            return encode(output, rows.outputs[output.name], rows.status[output.name], lead=lead)

        return self._write(slot, rows, encoder, rows.source, attempt)

    def write_encoded(
        self, slot: "Slot", samples: "SlotRead", outputs: "Mapping[str, Encoded]", attempt: "Mapping[str, Any]"
    ) -> Commit:
        """Put a slot whose rows are encoded already, as another store holds them; raises as `write`.

        Args:
            slot: The slot.
            samples: Keys, labels and places; its rows are not looked at.
            outputs: The rows of every output of the pass.
            attempt: Facts about where they came from, as JSON values.
        """

        def encoder(output: OutputSpec, lead: "NDArray[np.generic] | None") -> Encoded:
            if lead is not None:
                raise ConflictError(f"slot {slot.index} has {output.name} of another writer; use another place")
            return outputs[output.name]

        return self._write(slot, samples, encoder, self._source(slot), attempt)

    def _write(
        self,
        slot: "Slot",
        samples: "SlotRows | SlotRead",
        encoder: "Encoder",
        source: "Mapping[str, Any]",
        attempt: "Mapping[str, Any]",
    ) -> Commit:
        objects: list[ObjectRecord] = []
        arrays: tuple[NDArray[np.generic], ...] = (samples.keys, samples.labels, samples.places)
        found: dict[str, tuple[NDArray[np.uint8], MeasuredError]] = {}
        with ThreadPoolExecutor(1) as ahead:  # encodes an output while the one before it goes to the disk
            coming = ahead.submit(encoder, self._outputs[0], None)
            for schema, values in zip(row_schemas(len(self._store.slots), self._store.capacity), arrays, strict=True):
                objects.append(self._put_chunk(schema, slot.index, encode_chunk(schema, values)))
            for output, following in zip(self._outputs, [*self._outputs[1:], None], strict=True):
                made = coming.result()
                if following is not None:
                    coming = ahead.submit(encoder, following, None)
                made = self._put_output(output, slot.index, made, encoder, objects)
                found[output.name] = made.status, made.error
        commit = Commit(
            slot=slot.index,
            pass_digest=self.plan.digest,
            fingerprint=self.spec.fingerprint,
            decode=self._store.decode_digest,
            source=dict(source),
            rows=slot.rows,
            keys=keys_digest(samples.keys),
            labelled=int((samples.labels >= 0).sum()),
            max_label=int(samples.labels.max(initial=-1)),
            ok={name: int((status == RowStatus.OK).sum()) for name, (status, _) in found.items()},
            bad={name: status_counts(status) for name, (status, _) in found.items()},
            error={name: error for name, (_, error) in found.items()},
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
                source=self._source(slot),
                objects=tuple(objects),
                attempt={"id": str(uuid.uuid4()), **attempt},
            )
        )

    @staticmethod
    def _source(slot: "Slot") -> dict[str, Any]:
        return {"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b}

    def _check_rows(self, slot: "Slot", rows: SlotRows) -> None:
        """Refuse what a reader would refuse, before anything is written.

        Raises:
            StoreError: Counts, labels, places, status or source do not fit the slot.
        """
        lengths = [len(rows.keys), len(rows.labels), len(rows.places), *(len(r) for r in rows.outputs.values())]
        lengths += [len(s) for s in rows.status.values()]
        classes = self._store.class_names
        source = (rows.source["bytes"], rows.source["blake2b"])
        problems = {
            f"expected {slot.rows} rows, got {sorted(set(lengths))}": set(lengths) != {slot.rows},
            f"expected labels below {len(classes or ())}": classes is not None
            and int(rows.labels.max(initial=-1)) >= len(classes),
            "expected a label of -1 where there is none": int(rows.labels.min(initial=-1)) < -1,
            "expected a status of 1 to 5": not all(np.isin(s, list(RowStatus)[1:]).all() for s in rows.status.values()),
            "expected places within the tar, in order, none in another": not are_places(rows.places, slot.shard),
            "it was read from another tar": source != (slot.shard.size_bytes, slot.shard.blake2b),
        }
        for problem, found in problems.items():
            if found:
                raise StoreError(f"rows of slot {slot.index} ({slot.shard.url}) cannot be written: {problem}")

    def _put_output(
        self, output: OutputSpec, slot: int, made: Encoded, encoder: "Encoder", objects: list[ObjectRecord]
    ) -> Encoded:
        """Put the arrays of one output, and take over what another writer has put of them.

        Int8 and top-k rows lie in two arrays that mean nothing without each other. The first of them is put first and
        decides: who finds one there encodes by it, so that whatever either of both puts fits it.
        """
        *leading, main, last = output_schemas(self._id, output, len(self._store.slots), self._store.capacity)
        for schema in leading:
            lead = self._put_or_find(schema, slot, made.rows.arrays()[0], objects)
            if lead is not None:
                made = self._led(output, made, encoder, lead, schema.chunk_key(slot))
        there = self._put_or_find(main, slot, made.rows.arrays()[-1], objects)
        if there is not None:
            theirs = rows_of(output, [*made.rows.arrays()[:-1], there], len(made.rows))
            ok = made.status == RowStatus.OK
            if theirs.fault(ok) is not None or not same_rows(made.rows, theirs, ok, lost=made.error.max):
                raise _conflict(main.chunk_key(slot))
        objects.append(self._put_chunk(last, slot, encode_chunk(last, made.status)))
        return made

    def _led(
        self, output: OutputSpec, made: Encoded, encoder: "Encoder", lead: "NDArray[np.generic]", key: str
    ) -> Encoded:
        """The rows by the scale or the index of another writer.

        Raises:
            ConflictError: It cannot be one of the same rows.
        """
        ok = made.status == RowStatus.OK
        if not can_lead(output, lead, ok):
            raise _conflict(key)
        again = encoder(output, lead)
        if again.rows.fault(ok) is not None or not same_rows(made.rows, again.rows, ok, lost=made.error.max):
            raise _conflict(key)
        return again

    def _put_or_find(
        self, schema: ArraySchema, slot: int, values: "NDArray[np.generic]", objects: list[ObjectRecord]
    ) -> "NDArray[np.generic] | None":
        """Put an object, or find another one there: its whole chunk; None where ours is there."""
        data = encode_chunk(schema, values)
        there, record = self._put(schema.chunk_key(slot), data)
        objects.append(record)
        return None if there == data else decode_chunk(schema, there)

    def _put_chunk(self, schema: ArraySchema, slot: int, data: bytes) -> ObjectRecord:
        """Put an object that nobody may have put with other values; raises ConflictError."""
        key = schema.chunk_key(slot)
        there, record = self._put(key, data)
        if there != data and not same_values(*(decode_chunk(schema, version) for version in (data, there))):
            raise _conflict(key)
        return record

    def _put(self, key: str, data: bytes) -> tuple[bytes, ObjectRecord]:
        """Put an object or find another one there; a long one's digest is computed while it goes to the disk."""
        if len(data) < _HASHED_ASIDE_BYTES:
            there = put_or_keep(self._storage, key, data)
            return there, ObjectRecord.of(key, there)
        with ThreadPoolExecutor(1) as aside:
            record = aside.submit(ObjectRecord.of, key, data)
            there = put_or_keep(self._storage, key, data)
            return there, record.result() if there is data else ObjectRecord.of(key, there)

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


def _conflict(key: str) -> ConflictError:
    return ConflictError(
        f"{key} is there with other values, of other shards or by another way of computing; use another --out"
    )
