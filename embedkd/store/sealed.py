"""The sealed index of a pass: all its commits in one document, column by column.

A reader of 41,408 slots would otherwise open 41,408 commits before it knew what is there. Whatever a commit says can be
read from the index too, except its attempt; the commits stay where they are.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import FormatError, IntegrityError
from embedkd.records import blake2b_hex
from embedkd.store.commits import MAX_REASONS, Commit, ObjectRecord, is_reason
from embedkd.store.documents import pack
from embedkd.store.measured import ErrorColumns
from embedkd.store.passes import pass_folder
from embedkd.store.schema import MAX_SLOTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from embedkd.store.documents import Fields
    from embedkd.store.manifest import Slot

DIGEST_BYTES = 32
_SOURCE = np.dtype([("slot", "<u8"), ("bytes", "<u8"), ("start", "<u8"), ("n", "<u8"), ("tar", "u1", DIGEST_BYTES)])


@dataclass(frozen=True)
class ObjectColumns:
    """One object a slot, of one array.

    Attributes:
        size_bytes: u32 [n].
        crc32c: u32 [n].
        blake2b: u8 [n, 32].
    """

    size_bytes: "NDArray[np.uint32]"
    crc32c: "NDArray[np.uint32]"
    blake2b: "NDArray[np.uint8]"

    def to_json(self) -> dict[str, str]:
        """As JSON values."""
        return {"bytes": pack(self.size_bytes), "crc32c": pack(self.crc32c), "blake2b": pack(self.blake2b)}

    @classmethod
    def from_json(cls, entry: "Fields", rows: int) -> "ObjectColumns":
        """The inverse of `to_json`."""
        return cls(
            entry.packed("bytes", "<u4", rows),
            entry.packed("crc32c", "<u4", rows),
            entry.packed("blake2b", "u1", rows, DIGEST_BYTES),
        )

    def record(self, at: int, key: str) -> ObjectRecord:
        """What a commit says of one of them."""
        return ObjectRecord(key, int(self.size_bytes[at]), int(self.crc32c[at]), self.blake2b[at].tobytes().hex())


@dataclass(frozen=True)
class SealedIndex:
    """What the commits of one pass say, n of them.

    Attributes:
        pass_digest: Theirs.
        fingerprint: The teacher's.
        decode: Digest of the decode policy.
        sources: Digest over the slots and tars that they are of.
        slots: u32 [n], numbers of the slots, rising.
        commits: u8 [n, 32], digests of the commits.
        keys: u8 [n, 32], digests over the samples' keys.
        labelled: u32 [n].
        max_label: i32 [n].
        ok: Output to u32 [n].
        bad: Output to name of a status to u32 [n].
        error: Output to what its encoding lost.
        objects: In the order of a commit's.
    """

    pass_digest: str
    fingerprint: str
    decode: str
    sources: str
    slots: "NDArray[np.uint32]"
    commits: "NDArray[np.uint8]"
    keys: "NDArray[np.uint8]"
    labelled: "NDArray[np.uint32]"
    max_label: "NDArray[np.int32]"
    ok: "Mapping[str, NDArray[np.uint32]]"
    bad: "Mapping[str, Mapping[str, NDArray[np.uint32]]]"
    error: "Mapping[str, ErrorColumns]"
    objects: tuple[ObjectColumns, ...]

    def place(self, slot: int) -> int | None:
        """Where a slot stands in the columns; None where it is not sealed."""
        at = int(np.searchsorted(self.slots, slot))
        return at if at < len(self.slots) and self.slots[at] == slot else None

    def commit(self, at: int, slot: "Slot", keys: "Sequence[str]") -> Commit:
        """The commit in one place, without its attempt.

        Args:
            at: See `place`.
            slot: The slot.
            keys: Of its objects, in order.
        """
        bad = {
            name: {reason: int(column[at]) for reason, column in columns.items() if column[at]}
            for name, columns in self.bad.items()
        }
        return Commit(
            slot=slot.index,
            pass_digest=self.pass_digest,
            fingerprint=self.fingerprint,
            decode=self.decode,
            source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
            rows=slot.rows,
            keys=self.keys[at].tobytes().hex(),
            labelled=int(self.labelled[at]),
            max_label=int(self.max_label[at]),
            ok={name: int(column[at]) for name, column in self.ok.items()},
            bad=bad,
            error={name: columns.at(at) for name, columns in self.error.items()},
            objects=tuple(columns.record(at, key) for columns, key in zip(self.objects, keys, strict=True)),
            attempt={},
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "pass_digest": self.pass_digest,
            "fingerprint": self.fingerprint,
            "decode": self.decode,
            "sources": self.sources,
            "slots": pack(self.slots),
            "commits": pack(self.commits),
            "keys": pack(self.keys),
            "labelled": pack(self.labelled),
            "max_label": pack(self.max_label),
            "ok": {name: pack(column) for name, column in self.ok.items()},
            "bad": {
                name: {reason: pack(column) for reason, column in columns.items()} for name, columns in self.bad.items()
            },
            "error": {name: columns.to_json() for name, columns in self.error.items()},
            "objects": [columns.to_json() for columns in self.objects],
        }

    @classmethod
    def from_json(cls, document: "Fields", outputs: tuple[str, ...], arrays: int) -> "SealedIndex":
        """The inverse of `to_json`; `check` compares it with the store.

        Args:
            document: The document.
            outputs: Of the pass.
            arrays: That a slot of the pass has objects of.

        Raises:
            FormatError: A member is missing, of another type, or does not fit the others.
        """
        slots = document.packed("slots", "<u4")
        n, ok, bad, error = len(slots), *(document.member(name) for name in ("ok", "bad", "error"))
        objects = document.objects("objects", arrays)
        if not 1 <= n <= MAX_SLOTS or len(objects) != arrays:
            raise FormatError(f"{document.where}: expected commits of {arrays} arrays, got {n} of {len(objects)}")
        if (np.diff(slots.astype(np.int64)) <= 0).any():
            raise FormatError(f"{document.where}: expected slots in rising order")
        if any(set(member.content) != set(outputs) for member in (ok, bad, error)):
            raise IntegrityError(f"{document.where} does not cover the outputs of its pass")
        return cls(
            pass_digest=document.digest("pass_digest"),
            fingerprint=document.digest("fingerprint"),
            decode=document.digest("decode"),
            sources=document.digest("sources"),
            slots=slots,
            commits=document.packed("commits", "u1", n, DIGEST_BYTES),
            keys=document.packed("keys", "u1", n, DIGEST_BYTES),
            labelled=document.packed("labelled", "<u4", n),
            max_label=document.packed("max_label", "<i4", n),
            ok={name: ok.packed(name, "<u4", n) for name in outputs},
            bad={name: _reasons(bad.member(name), n) for name in outputs},
            error={name: ErrorColumns.from_json(error.member(name), n) for name in outputs},
            objects=tuple(ObjectColumns.from_json(entry, n) for entry in objects),
        )

    @classmethod
    def of(cls, commits: "Sequence[Commit]", digests: "Sequence[str]", slots: "Sequence[Slot]") -> "SealedIndex":
        """The index of commits of one pass, in the order of their slots.

        Args:
            commits: At least one; each checked against the store.
            digests: Theirs.
            slots: Theirs.
        """
        first = commits[0]
        reasons = {name: sorted({reason for c in commits for reason in c.bad[name]}) for name in first.ok}
        return cls(
            pass_digest=first.pass_digest,
            fingerprint=first.fingerprint,
            decode=first.decode,
            sources=sources_digest(slots),
            slots=np.array([c.slot for c in commits], np.uint32),
            commits=_digests(digests),
            keys=_digests([c.keys for c in commits]),
            labelled=np.array([c.labelled for c in commits], np.uint32),
            max_label=np.array([c.max_label for c in commits], np.int32),
            ok={name: np.array([c.ok[name] for c in commits], np.uint32) for name in first.ok},
            bad={
                name: {reason: np.array([c.bad[name].get(reason, 0) for c in commits], np.uint32) for reason in found}
                for name, found in reasons.items()
            },
            error={name: ErrorColumns.of(c.error[name] for c in commits) for name in first.ok},
            objects=tuple(_columns([c.objects[i] for c in commits]) for i in range(len(first.objects))),
        )

    @classmethod
    def joined(cls, parts: "Sequence[SealedIndex]", slots: "Sequence[Slot]") -> "SealedIndex":
        """One index of several of one pass that have no slot in common.

        Args:
            parts: At least one.
            slots: All slots of the store.
        """
        numbers = np.concatenate([part.slots for part in parts])
        order = np.argsort(numbers)

        def join(columns: "list[NDArray[Any]]") -> "NDArray[Any]":
            return np.concatenate(columns)[order]

        reasons = {name: sorted({r for part in parts for r in part.bad[name]}) for name in parts[0].ok}
        return cls(
            pass_digest=parts[0].pass_digest,
            fingerprint=parts[0].fingerprint,
            decode=parts[0].decode,
            sources=sources_digest([slots[number] for number in numbers[order].tolist()]),
            slots=numbers[order],
            commits=join([part.commits for part in parts]),
            keys=join([part.keys for part in parts]),
            labelled=join([part.labelled for part in parts]),
            max_label=join([part.max_label for part in parts]),
            ok={name: join([part.ok[name] for part in parts]) for name in parts[0].ok},
            bad={
                name: {reason: join([part.count(name, reason) for part in parts]) for reason in found}
                for name, found in reasons.items()
            },
            error={
                name: ErrorColumns.stacked([part.error[name] for part in parts]).take(order) for name in parts[0].ok
            },
            objects=tuple(
                ObjectColumns(
                    join([columns.size_bytes for columns in of]),
                    join([columns.crc32c for columns in of]),
                    join([columns.blake2b for columns in of]),
                )
                for of in zip(*(part.objects for part in parts), strict=True)
            ),
        )

    def kept(self, wanted: frozenset[int], slots: "Sequence[Slot]") -> "SealedIndex | None":
        """The index of these slots alone, None where it has none of them.

        Args:
            wanted: Numbers of slots.
            slots: All slots of the store.
        """
        rows = np.flatnonzero([number in wanted for number in self.slots.tolist()])
        if not len(rows):
            return None
        bad = {
            name: {reason: column[rows] for reason, column in columns.items() if column[rows].any()}
            for name, columns in self.bad.items()
        }
        return replace(
            self,
            sources=sources_digest([slots[number] for number in self.slots[rows].tolist()]),
            slots=self.slots[rows],
            commits=self.commits[rows],
            keys=self.keys[rows],
            labelled=self.labelled[rows],
            max_label=self.max_label[rows],
            ok={name: column[rows] for name, column in self.ok.items()},
            bad=bad,
            error={name: columns.take(rows) for name, columns in self.error.items()},
            objects=tuple(ObjectColumns(o.size_bytes[rows], o.crc32c[rows], o.blake2b[rows]) for o in self.objects),
        )

    def count(self, output: str, reason: str) -> "NDArray[np.uint32]":
        """Rows of an output with one status that is not OK, u32 [n]."""
        found = self.bad[output].get(reason)
        return np.zeros(len(self.slots), np.uint32) if found is None else found

    def check(self, slots: "Sequence[Slot]", identity: tuple[str, str, str], classes: int | None, where: str) -> None:
        """Compare it with the store, as each of its commits would be.

        Args:
            slots: All slots of the store.
            identity: Digest of the pass, fingerprint of the teacher, digest of the decode policy.
            classes: Number of class names, None without any.
            where: What it is, for messages.

        Raises:
            FormatError: Rows are not counted once.
            IntegrityError: It is of another pass, teacher, decode policy or manifest.
        """
        if (self.pass_digest, self.fingerprint, self.decode) != identity:
            raise IntegrityError(f"{where} belongs to another pass, teacher or decode policy; restore it")
        if int(self.slots[-1]) >= len(slots):
            raise IntegrityError(f"{where} has slot {int(self.slots[-1])}, the manifest has {len(slots)}; restore it")
        mine = [slots[number] for number in self.slots.tolist()]
        if sources_digest(mine) != self.sources:
            raise IntegrityError(f"{where} was made from other bytes than the manifest's shards; restore it")
        rows = np.array([slot.rows for slot in mine], np.int64)
        counted = [self.ok[name] + sum(bad.values(), np.zeros_like(rows)) for name, bad in self.bad.items()]
        if (self.labelled > rows).any() or any((count != rows).any() for count in counted):
            raise FormatError(f"{where} does not count each row of its slots once")
        if any((columns.histogram.sum(axis=1) != self.ok[name]).any() for name, columns in self.error.items()):
            raise FormatError(f"{where} does not say the error of each row of its slots")
        least, most = int(self.max_label.min()), int(self.max_label.max())
        if least < -1 or (classes is not None and most >= classes):
            raise IntegrityError(f"{where} has labels from {least} to {most}, the manifest names {classes} classes")


def index_key(teacher_id: str, pass_id: str, number: int) -> str:
    """Key of one sealed index of a pass."""
    return f"{pass_folder(teacher_id, pass_id)}/sealed/{number}.json"


def sources_digest(slots: "Sequence[Slot]") -> str:
    """Over what commits say of their slots and tars: number, length of the tar, start, rows, digest of the tar."""
    facts = np.zeros(len(slots), _SOURCE)
    facts["slot"] = [slot.index for slot in slots]
    facts["bytes"] = [slot.shard.size_bytes for slot in slots]
    facts["start"] = [slot.start for slot in slots]
    facts["n"] = [slot.rows for slot in slots]
    facts["tar"] = _digests([slot.shard.blake2b for slot in slots])
    return blake2b_hex(facts.tobytes())


def _digests(digests: "Sequence[str]") -> "NDArray[np.uint8]":
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, DIGEST_BYTES)


def _reasons(entry: "Fields", rows: int) -> "dict[str, NDArray[np.uint32]]":
    return {reason: entry.packed(reason, "<u4", rows) for reason in entry.names("statuses", MAX_REASONS, is_reason)}


def _columns(records: "Sequence[ObjectRecord]") -> ObjectColumns:
    return ObjectColumns(
        np.array([r.size_bytes for r in records], np.uint32),
        np.array([r.crc32c for r in records], np.uint32),
        _digests([r.blake2b for r in records]),
    )
