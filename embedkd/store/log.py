"""The commits of one teacher, from sealed indexes where there are some, from commits where there are none."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import IntegrityError, ObjectMissingError, UnknownNameError
from embedkd.store.commits import Commit
from embedkd.store.documents import MAX_DOCUMENT_BYTES, MAX_MANIFEST_BYTES, unseal
from embedkd.store.measured import MeasuredError
from embedkd.store.passes import Pass, commit_key
from embedkd.store.schema import row_schemas
from embedkd.store.sealed import SealedIndex, index_key
from embedkd.store.structure import schemas_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from embedkd.records import TeacherSpec
    from embedkd.store.manifest import Slot
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.schema import ArraySchema


@dataclass(frozen=True)
class SlotCounts:
    """What the commits of one output count, a number a slot of the store.

    Attributes:
        committed: bool [S].
        ok: i64 [S], rows with an embedding; 0 without a commit, like all that follow.
        labelled: i64 [S], samples with a label.
        max_label: i64 [S], the largest label; -1 without any.
        bad: Name of a status to i64 [S].
    """

    committed: "NDArray[np.bool_]"
    ok: "NDArray[np.int64]"
    labelled: "NDArray[np.int64]"
    max_label: "NDArray[np.int64]"
    bad: "Mapping[str, NDArray[np.int64]]"


class CommitLog:
    """Finds, checks and keeps the commits of one teacher; safe for threads.

    Args:
        store: The store.
        spec: The teacher.
        passes: Its passes by id.
    """

    def __init__(self, store: "EmbeddingStore", spec: "TeacherSpec", passes: "Mapping[str, Pass]") -> None:
        self._store = store
        self._spec = spec
        self._passes = passes
        self._teacher_id = spec.teacher_id
        self._passes_of: dict[str, list[str]] = {}
        for name, plan in passes.items():
            for output in plan.outputs:
                self._passes_of.setdefault(output, []).append(name)
        self._digests = {name: plan.digest for name, plan in passes.items()}
        self._identity = (spec.fingerprint, store.decode_digest)
        self._commits: dict[tuple[str, int], Commit] = {}
        self._indexes: dict[str, SealedIndex | None] = {}
        self._schemas: dict[str, list[ArraySchema]] = {}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs of all passes, sorted."""
        return tuple(sorted(self._passes_of))

    def commit(self, slot: "Slot", output: str) -> Commit | None:
        """See `TeacherView.commit`."""
        for name in self._names(output):
            found = self.commit_of(slot, name)
            if found is not None:
                return found
        return None

    def commit_of(self, slot: "Slot", pass_id: str) -> Commit | None:
        """The commit of one slot in one pass, sealed or not."""
        known = self._commits.get((pass_id, slot.index))
        if known is not None:
            return known
        index = self.index(pass_id)
        at = None if index is None else index.place(slot.index)
        if index is not None and at is not None:
            return index.commit(at, slot, self.object_keys(slot, pass_id))  # quickly made, and many: not kept
        written = self.read_commit(slot, pass_id)
        if written is None:
            return None
        self._commits[pass_id, slot.index] = written[0]
        return written[0]

    def read_commit(self, slot: "Slot", pass_id: str) -> tuple[Commit, str] | None:
        """The commit as it was written, and its digest, whatever was sealed; None where there is none.

        Raises:
            IntegrityError: It belongs to another slot, pass, teacher or shard.
        """
        key = commit_key(self._teacher_id, pass_id, slot.index)
        try:
            data = self._store.storage.get(key, limit_bytes=MAX_DOCUMENT_BYTES)
        except ObjectMissingError:
            return None
        document = unseal(data, key)
        commit = Commit.from_json(document)
        self._check(commit, slot, pass_id, key)
        return commit, document.own_digest

    def index(self, pass_id: str) -> SealedIndex | None:
        """The sealed index of a pass that the store's catalogue names, read once; None without one.

        Raises:
            FormatError: It is not of format 1.
            IntegrityError: It is gone, was changed, or belongs to something else.
        """
        if pass_id not in self._indexes:
            self._indexes[pass_id] = self._read_index(pass_id)
        return self._indexes[pass_id]

    def _read_index(self, pass_id: str) -> SealedIndex | None:
        catalogue = self._store.catalogue
        sealed = None if catalogue is None else catalogue.pass_of(self._teacher_id, pass_id)
        if sealed is None or sealed.index is None:
            return None
        key = index_key(self._teacher_id, pass_id, sealed.index)
        try:
            data = self._store.storage.get(key, limit_bytes=MAX_MANIFEST_BYTES)
        except ObjectMissingError as error:
            raise IntegrityError(f"{self._store.storage.url} lacks {key}; restore it from a copy") from error
        document = unseal(data, key)
        if document.own_digest != sealed.index_digest:
            raise IntegrityError(f"{key} is not the one that was sealed; restore it")
        arrays = len(self.object_keys(self._store.slots[0], pass_id))
        index = SealedIndex.from_json(document, self._passes[pass_id].outputs, arrays)
        names = self._store.class_names
        identity = (self._digests[pass_id], *self._identity)
        index.check(self._store.slots, identity, None if names is None else len(names), key)
        return index

    def counts(self, output: str) -> SlotCounts:
        """What all commits of an output count.

        Raises:
            UnknownNameError: No pass has this output.
            IntegrityError: A commit or an index belongs to something else.
        """
        size = len(self._store.slots)
        counts = SlotCounts(
            np.zeros(size, np.bool_),
            np.zeros(size, np.int64),
            np.zeros(size, np.int64),
            np.full(size, -1, np.int64),
            {},
        )
        # A slot of two passes counts as the first says, so the first is filled in last.
        for name in reversed(self._names(output)):
            index = self.index(name)
            if index is not None:
                _fill_sealed(counts, index, output)
        for slot in self._store.slots:
            if not counts.committed[slot.index]:
                commit = self.commit(slot, output)
                if commit is not None:
                    _fill(counts, commit, output)
        return counts

    def error(self, output: str) -> MeasuredError:
        """What the encoding of an output lost in all committed slots.

        Raises:
            UnknownNameError: No pass has this output.
            IntegrityError: A commit or an index belongs to something else.
        """
        parts: list[MeasuredError] = []
        counted: set[int] = set()
        for name in self._names(output):
            index = self.index(name)
            if index is not None:
                places = [at for at, number in enumerate(index.slots.tolist()) if number not in counted]
                parts.append(index.error[output].take(np.array(places, np.int64)).joined())
                counted.update(index.slots.tolist())
        for slot in self._store.slots:
            commit = None if slot.index in counted else self.commit(slot, output)
            if commit is not None:
                parts.append(commit.error[output])
        return MeasuredError.joined(parts)

    def object_keys(self, slot: "Slot", pass_id: str) -> list[str]:
        """Keys of the objects of a slot in the order of its commit."""
        return [schema.chunk_key(slot.index) for schema in self._schemas_of(pass_id)]

    def _schemas_of(self, pass_id: str) -> "list[ArraySchema]":
        """The arrays of a pass; for all slots of a store the keys of their objects are made of them.

        Raises:
            IntegrityError: The pass has an output that the teacher has not.
        """
        if pass_id not in self._schemas:
            schemas = [*row_schemas(len(self._store.slots), self._store.capacity)]
            for name in self._passes[pass_id].outputs:
                schemas += schemas_of(self._store, self._spec, name)
            self._schemas[pass_id] = schemas
        return self._schemas[pass_id]

    def _names(self, output: str) -> list[str]:
        if output not in self._passes_of:
            raise UnknownNameError(f"output of {self._spec.name} in {self._store.storage.url}", output, self._passes_of)
        return self._passes_of[output]

    def _check(self, commit: Commit, slot: "Slot", name: str, key: str) -> None:
        fingerprint, decode = self._identity
        expected = (slot.index, self._digests[name], fingerprint, slot.rows)
        if (commit.slot, commit.pass_digest, commit.fingerprint, commit.rows) != expected:
            raise IntegrityError(f"{key} belongs to another slot, pass or teacher; restore it")
        if (commit.source["bytes"], commit.source["blake2b"]) != (slot.shard.size_bytes, slot.shard.blake2b):
            raise IntegrityError(f"{key} was made from other bytes than the manifest's {slot.shard.url}")
        if commit.decode != decode:
            raise IntegrityError(f"{key} was made with another decode policy than the store's")
        if set(commit.ok) != set(self._passes[name].outputs):
            raise IntegrityError(f"{key} does not cover the outputs of its pass")
        classes = self._store.class_names
        if classes is not None and commit.max_label >= len(classes):
            raise IntegrityError(f"{key} has label {commit.max_label}, the manifest names {len(classes)} classes")


def _fill_sealed(counts: SlotCounts, index: SealedIndex, output: str) -> None:
    counts.committed[index.slots] = True
    counts.ok[index.slots] = index.ok[output]
    counts.labelled[index.slots] = index.labelled
    counts.max_label[index.slots] = index.max_label
    for column in counts.bad.values():
        column[index.slots] = 0
    for reason, counted in index.bad[output].items():
        _column(counts, reason)[index.slots] = counted


def _fill(counts: SlotCounts, commit: Commit, output: str) -> None:
    counts.committed[commit.slot] = True
    counts.ok[commit.slot] = commit.ok[output]
    counts.labelled[commit.slot] = commit.labelled
    counts.max_label[commit.slot] = commit.max_label
    for reason, count in commit.bad[output].items():
        _column(counts, reason)[commit.slot] = count


def _column(counts: SlotCounts, reason: str) -> "NDArray[np.int64]":
    assert isinstance(counts.bad, dict)
    column: NDArray[np.int64] = counts.bad.setdefault(reason, np.zeros(len(counts.ok), np.int64))
    return column
