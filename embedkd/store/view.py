"""One teacher's part of a store.

Nothing is trusted but commits, and every byte is checked against one before it is used.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import HoleError, IntegrityError, ObjectMissingError, UnknownNameError
from embedkd.records import RowStatus
from embedkd.store.classes import read_class_set
from embedkd.store.commits import Commit, keys_digest
from embedkd.store.encoding import decode_chunk, finite_rows
from embedkd.store.log import CommitLog, SlotCounts
from embedkd.store.passes import commit_key, read_passes
from embedkd.store.schema import ArraySchema, output_schemas, row_schemas
from embedkd.store.structure import check_structure, read_spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedkd.store.classes import ClassSet
    from embedkd.store.manifest import Slot
    from embedkd.store.reader import EmbeddingStore


@dataclass(frozen=True)
class SlotRead:
    """Rows of one slot and one output.

    Attributes:
        rows: [n, D] in the stored dtype, read-only; NaN where status is not OK.
        status: u8 [n], see `RowStatus`.
        keys: u64 [n].
        labels: i32 [n], -1 without a label.
    """

    rows: "NDArray[np.floating[Any]]"
    status: "NDArray[np.uint8]"
    keys: "NDArray[np.uint64]"
    labels: "NDArray[np.int32]"


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
        keys, labels, status = self.read_labels(where, output)
        schema, _ = self.output_schemas(output)
        rows: NDArray[Any] = self._read_chunk(schema, where, self.committed(where, output))
        if not np.array_equal(finite_rows(rows), status == RowStatus.OK):
            raise IntegrityError(f"{output} of slot {where.index} does not fit its status")
        return SlotRead(rows, status, keys, labels)

    def read_labels(
        self, slot: "Slot", output: str
    ) -> "tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.uint8]]":
        """Keys, labels and status of one slot without its rows; raises as `read`."""
        commit = self.committed(slot, output)
        schemas = (*self.row_schemas(), self.output_schemas(output)[1])
        chunks = [self._read_chunk(schema, slot, commit) for schema in schemas]
        keys, labels, status = chunks[0].astype(np.uint64), chunks[1].astype(np.int32), chunks[2].astype(np.uint8)
        if keys_digest(keys) != commit.keys:
            raise IntegrityError(f"rows/key of slot {slot.index} does not fit its commit")
        if (int((labels >= 0).sum()), int(labels.max(initial=-1))) != (commit.labelled, commit.max_label):
            raise IntegrityError(f"rows/label of slot {slot.index} does not fit its commit")
        if int((status == RowStatus.OK).sum()) != commit.ok[output] or (status == RowStatus.ABSENT).any():
            raise IntegrityError(f"{output}_status of slot {slot.index} does not fit its commit")
        return keys, labels, status

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
            return decode_chunk(schema, data)[: slot.rows]
        except (ObjectMissingError, IntegrityError) as error:
            committed = [key for key in self._commit_keys(slot) if self.store.storage.exists(key)]
            raise IntegrityError(
                f"{error}; restore it, or remove it with {' and '.join(committed)} and run embedkd precompute again"
            ) from error

    def _commit_keys(self, slot: "Slot") -> list[str]:
        return [commit_key(self.teacher_id, name, slot.index) for name in self.passes]

    def row_schemas(self) -> tuple[ArraySchema, ArraySchema]:
        """``rows/key`` and ``rows/label``."""
        return row_schemas(len(self.store.slots), self.store.capacity)

    def output_schemas(self, output: str) -> tuple[ArraySchema, ArraySchema]:
        """The rows of one output and their status.

        Raises:
            IntegrityError: The teacher has no such output.
        """
        spec = self.spec.output(output)
        if spec is None:
            raise IntegrityError(f"{self.teacher_id} has rows of '{output}', which its specification does not name")
        return output_schemas(self.teacher_id, spec, len(self.store.slots), self.store.capacity)

    def check_structure(self) -> None:
        """Check, once, every ``zarr.json`` that readers of arrays would believe.

        Raises:
            IntegrityError: One is not what the store's specification derives.
        """
        if not self._checked:
            check_structure(self)
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
