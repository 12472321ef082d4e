"""One teacher's part of a store.

Nothing is trusted but commits, and every byte is checked against one before it is used.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import HoleError, IntegrityError, ObjectMissingError, UnknownNameError
from embedkd.records import RowStatus
from embedkd.store.classes import read_class_set
from embedkd.store.commits import Commit, keys_digest
from embedkd.store.encoding import decode_chunk
from embedkd.store.log import CommitLog, SlotCounts
from embedkd.store.passes import commit_key, read_passes
from embedkd.store.places import are_places
from embedkd.store.rows import rows_of
from embedkd.store.schema import ArraySchema, row_schemas
from embedkd.store.structure import check_structure, read_spec, schemas_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedkd.store.classes import ClassSet
    from embedkd.store.manifest import Slot
    from embedkd.store.measured import MeasuredError
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.rows import Rows


@dataclass(frozen=True)
class SlotRead:
    """Rows of one slot and one output.

    Attributes:
        stored: The rows as the store keeps them, n of them; ``stored[i]`` decodes one.
        status: u8 [n], see `RowStatus`.
        keys: u64 [n].
        labels: i32 [n], -1 without a label.
        places: u64 [n, 3], see `Place`.
    """

    stored: "Rows"
    status: "NDArray[np.uint8]"
    keys: "NDArray[np.uint64]"
    labels: "NDArray[np.int32]"
    places: "NDArray[np.uint64]"

    @cached_property
    def rows(self) -> "NDArray[np.floating[Any]]":
        """All rows, decoded: [n, D] in float16 where they are stored so, else float32; NaN where status is not OK.

        Of wide top-k logits this is a thousand times what is stored: take rows of `stored` one by one.
        """
        rows = self.stored.decode()
        rows.flags.writeable = False
        return rows


@dataclass(frozen=True)
class SlotSamples:
    """The samples of one slot, and what became of them in one output.

    Attributes:
        keys: u64 [n].
        labels: i32 [n], -1 without a label.
        places: u64 [n, 3], see `Place`.
        status: u8 [n], see `RowStatus`.
    """

    keys: "NDArray[np.uint64]"
    labels: "NDArray[np.int32]"
    places: "NDArray[np.uint64]"
    status: "NDArray[np.uint8]"


class TeacherView:
    """One teacher's part of a store, as it was when it was opened; safe for threads.

    Args:
        store: The store.
        teacher_id: Folder name of the teacher.

    Attributes:
        spec: The teacher.
        passes: All passes by id.
        log: Their commits.

    Raises:
        FormatError: Its metadata is not of format 1.
        IntegrityError: Its metadata was changed.
    """

    def __init__(self, store: "EmbeddingStore", teacher_id: str) -> None:
        self.store = store
        self.teacher_id = teacher_id
        self.spec = read_spec(store, teacher_id)
        self.passes = read_passes(store.storage, teacher_id)
        self.log = CommitLog(store, self.spec, self.passes)
        self._checked = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs that some pass has begun to write, sorted."""
        return self.log.outputs

    def commit(self, slot: "Slot", output: str) -> Commit | None:
        """The commit that vouches for one slot of one output, or None.

        Raises:
            UnknownNameError: No pass has this output.
            IntegrityError: The commit belongs to another slot, pass, teacher or shard.
        """
        return self.log.commit(slot, output)

    def counts(self, output: str) -> SlotCounts:
        """What all commits of an output count, a number a slot; fast where the store is sealed.

        Raises:
            UnknownNameError: No pass has this output.
            IntegrityError: A commit belongs to another slot, pass, teacher or shard.
        """
        return self.log.counts(output)

    def error(self, output: str) -> "MeasuredError":
        """What the encoding of an output lost, over all rows that are committed.

        Raises:
            UnknownNameError: No pass has this output.
            IntegrityError: A commit belongs to another slot, pass, teacher or shard.
        """
        return self.log.error(output)

    def holes(self, output: str) -> "tuple[Slot, ...]":
        """Slots without a commit."""
        committed = self.counts(output).committed.tolist()
        return tuple(slot for slot, done in zip(self.store.slots, committed, strict=True) if not done)

    def read(self, slot: "Slot | int", output: str) -> SlotRead:
        """Rows of one slot, every object checked against the commit: length, trailer, crc32c.

        Raises:
            HoleError: The slot has no commit, or there is no such slot.
            IntegrityError: An object is missing or is not the committed one.
        """
        where = self._slot(slot) if isinstance(slot, int) else slot
        samples, commit = self.read_samples(where, output), self.committed(where, output)
        chunks = [self._read_chunk(schema, where, commit) for schema in self.output_schemas(output)[:-1]]
        spec = self.spec.output(output)
        assert spec is not None
        stored = rows_of(spec, chunks, where.rows)
        fault = stored.fault(samples.status == RowStatus.OK)
        if fault is not None:
            raise IntegrityError(f"{output} of slot {where.index} {fault}")
        return SlotRead(stored, samples.status, samples.keys, samples.labels, samples.places)

    def read_keys(self, slot: "Slot", output: str) -> "NDArray[np.uint64]":
        """Keys of one slot, u64 [n], and nothing else; raises as `read`."""
        commit = self.committed(slot, output)
        keys = self._read_chunk(self.row_schemas()[0], slot, commit)[: slot.rows].astype(np.uint64)
        if keys_digest(keys) != commit.keys:
            raise IntegrityError(f"rows/key of slot {slot.index} does not fit its commit")
        return keys

    def read_samples(self, slot: "Slot", output: str) -> SlotSamples:
        """Keys, labels, places and status of one slot without its rows; raises as `read`."""
        commit = self.committed(slot, output)
        schemas = (*self.row_schemas(), self.output_schemas(output)[-1])
        chunks = [self._read_chunk(schema, slot, commit)[: slot.rows] for schema in schemas]
        keys, labels = chunks[0].astype(np.uint64), chunks[1].astype(np.int32)
        places, status = chunks[2].astype(np.uint64), chunks[3].astype(np.uint8)
        if keys_digest(keys) != commit.keys:
            raise IntegrityError(f"rows/key of slot {slot.index} does not fit its commit")
        if (int((labels >= 0).sum()), int(labels.max(initial=-1))) != (commit.labelled, commit.max_label):
            raise IntegrityError(f"rows/label of slot {slot.index} does not fit its commit")
        if not are_places(places, slot.shard):
            raise IntegrityError(f"rows/place of slot {slot.index} are no places of samples in {slot.shard.url}")
        if int((status == RowStatus.OK).sum()) != commit.ok[output] or (status == RowStatus.ABSENT).any():
            raise IntegrityError(f"{output}_status of slot {slot.index} does not fit its commit")
        return SlotSamples(keys, labels, places, status)

    def _slot(self, index: int) -> "Slot":
        slots = self.store.slots
        if not 0 <= index < len(slots):
            raise HoleError(f"{self.store.storage.url} has slots 0 to {len(slots) - 1}, there is no slot {index}")
        return slots[index]

    def committed(self, slot: "Slot", output: str) -> Commit:
        """The commit of one slot of one output.

        Raises:
            HoleError: There is none.
            IntegrityError: See `commit`.
        """
        self.check_structure()
        commit = self.commit(slot, output)
        if commit is None:
            raise HoleError(
                f"slot {slot.index} ({slot.shard.url}) of {self.store.storage.url} has no {output}; "
                "run embedkd precompute again, it goes on where it stopped"
            )
        return commit

    def _read_chunk(self, schema: ArraySchema, slot: "Slot", commit: Commit) -> "NDArray[np.generic]":
        record = commit.record(schema.chunk_key(slot.index))
        try:
            data = self.store.storage.get(record.key, limit_bytes=schema.object_limit_bytes)
            record.check(data)
            return decode_chunk(schema, data)
        except (ObjectMissingError, IntegrityError) as error:
            committed = [key for key in self._commit_keys(slot) if self.store.storage.exists(key)]
            raise IntegrityError(
                f"{error}; restore it, or remove it with {' and '.join(committed)} and run embedkd precompute again"
            ) from error

    def _commit_keys(self, slot: "Slot") -> list[str]:
        return [commit_key(self.teacher_id, name, slot.index) for name in self.passes]

    def row_schemas(self) -> tuple[ArraySchema, ...]:
        """``rows/key``, ``rows/label`` and ``rows/place``."""
        return row_schemas(len(self.store.slots), self.store.capacity)

    def output_schemas(self, output: str) -> tuple[ArraySchema, ...]:
        """The arrays of one output in the order in which they are written, its status last.

        Raises:
            IntegrityError: The teacher has no such output.
        """
        return schemas_of(self.store, self.spec, output)

    def check_structure(self) -> None:
        """Check, once, every ``zarr.json`` that readers of arrays would believe.

        Raises:
            IntegrityError: One is not what the store's specification derives.
        """
        if not self._checked:
            check_structure(self)
            self.skip_structure()

    def skip_structure(self) -> None:
        """Check no ``zarr.json`` from now on: whoever asks for this knows already which of them are broken."""
        self._checked = True

    def class_set(self, name: str | None, output: str) -> "ClassSet":
        """A class set of one output: means, counts and spreads, with every array checked.

        Args:
            name: The set; None for the only one.
            output: The output.

        Raises:
            UnknownNameError: No set, or several, are called so.
            IntegrityError: An array is not the one that was written.
        """
        spec = self.spec.output(output)
        if spec is None:
            raise UnknownNameError(f"output of {self.spec.name}", output, [o.name for o in self.spec.outputs])
        self.check_structure()
        return read_class_set(self, name, spec)
