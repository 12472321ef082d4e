"""Commits: the last write of a slot, and the only proof that its objects are there and what they hold."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from embedkd.errors import FormatError, IntegrityError
from embedkd.records import RowStatus, blake2b_hex
from embedkd.store.encoding import trailer
from embedkd.store.measured import MeasuredError
from embedkd.store.passes import MAX_OUTPUTS
from embedkd.store.schema import MAX_CAPACITY, MAX_CHUNK_BYTES, MAX_SLOTS, is_output_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedkd.store.documents import Fields

_MAX_OBJECTS = 3 * MAX_OUTPUTS + 3
_MAX_CRC32C = (1 << 32) - 1
_MAX_LABEL = (1 << 31) - 1
MAX_REASONS = 16
_REASON = re.compile(r"[a-z][a-z_]{0,31}")


@dataclass(frozen=True)
class ObjectRecord:
    """What a document says of one object.

    Attributes:
        key: Below the store's root.
        size_bytes: Length.
        crc32c: The trailer that the object ends in.
        blake2b: BLAKE2b-256 of all its bytes, hexadecimal.
    """

    key: str
    size_bytes: int
    crc32c: int
    blake2b: str

    @classmethod
    def of(cls, key: str, data: bytes) -> "ObjectRecord":
        """The record of these bytes."""
        return cls(key, len(data), trailer(data), blake2b_hex(data))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"key": self.key, "bytes": self.size_bytes, "crc32c": self.crc32c, "blake2b": self.blake2b}

    @classmethod
    def from_json(cls, entry: "Fields") -> "ObjectRecord":
        """The inverse of `to_json`.

        Raises:
            FormatError: A field is missing, of another type, or absurd.
        """
        return cls(
            entry.text("key"),
            entry.number("bytes", high=2 * MAX_CHUNK_BYTES),
            entry.number("crc32c", high=_MAX_CRC32C),
            entry.digest("blake2b"),
        )

    def check(self, data: bytes, *, thorough: bool = False) -> None:
        """Compare bytes with the record: length and trailer, and the digest too where ``thorough``.

        Raises:
            IntegrityError: They differ.
        """
        if len(data) != self.size_bytes or trailer(data) != self.crc32c:
            raise IntegrityError(f"object {self.key} is not the one that was recorded")
        if thorough and blake2b_hex(data) != self.blake2b:
            raise IntegrityError(f"object {self.key} differs from its recorded BLAKE2b")


@dataclass(frozen=True)
class Commit:
    """One slot of one pass, finished.

    Attributes:
        slot: Number of the slot.
        pass_digest: Digest of the ``pass.json`` that it belongs to.
        fingerprint: The teacher's.
        decode: Digest of the decode policy that the images were read with.
        source: ``url``, ``bytes`` and ``blake2b`` of the tar, as it was streamed.
        rows: Number of samples.
        keys: Digest over the samples' u64 keys in order.
        labelled: Number of samples with a label.
        max_label: Largest label, -1 without any.
        ok: Number of rows with status 1, an output.
        bad: Reasons and counts of the other rows by status name, an output.
        error: What the encoding lost, an output.
        objects: Everything the commit vouches for, in a fixed order.
        attempt: Facts that may differ between two runs: id, times, machine.
    """

    slot: int
    pass_digest: str
    fingerprint: str
    decode: str
    source: Mapping[str, Any]
    rows: int
    keys: str
    labelled: int
    max_label: int
    ok: Mapping[str, int]
    bad: Mapping[str, Mapping[str, int]]
    error: Mapping[str, MeasuredError]
    objects: tuple[ObjectRecord, ...]
    attempt: Mapping[str, Any]

    def record(self, key: str) -> ObjectRecord:
        """What the commit says of one object.

        Raises:
            IntegrityError: It says nothing.
        """
        for entry in self.objects:
            if entry.key == key:
                return entry
        raise IntegrityError(f"the commit of slot {self.slot} does not name {key}")

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        error = {name: measured.to_json() for name, measured in self.error.items()}
        return {**asdict(self), "error": error, "objects": [entry.to_json() for entry in self.objects]}

    @classmethod
    def from_json(cls, document: "Fields") -> "Commit":
        """The inverse of `to_json`.

        Raises:
            FormatError: A field is missing, of another type, or does not fit the others.
        """
        commit = cls(
            slot=document.number("slot", high=MAX_SLOTS),
            pass_digest=document.digest("pass_digest"),
            fingerprint=document.digest("fingerprint"),
            decode=document.digest("decode"),
            source=_source(document.member("source")),
            rows=document.number("rows", high=MAX_CAPACITY),
            keys=document.digest("keys"),
            labelled=document.number("labelled", high=MAX_CAPACITY),
            max_label=document.number("max_label", low=-1, high=_MAX_LABEL),
            ok=_counts(document.member("ok")),
            bad=_reasons(document.member("bad")),
            error=_errors(document.member("error")),
            objects=tuple(ObjectRecord.from_json(entry) for entry in document.objects("objects", _MAX_OBJECTS)),
            attempt=document.free("attempt"),
        )
        commit.check_counts(document.where)
        return commit

    def check_counts(self, where: str) -> None:
        """Check that every row is counted once an output, and that the error of every ok one was measured.

        Raises:
            FormatError: It is not.
        """
        fits = set(self.ok) == set(self.bad) == set(self.error) and self.labelled <= self.rows
        if not fits or any(self.ok[name] + sum(self.bad[name].values()) != self.rows for name in self.ok):
            raise FormatError(f"{where} does not count each of its {self.rows} rows once")
        if any(self.error[name].rows != count for name, count in self.ok.items()):
            raise FormatError(f"{where} does not say the error of each of its rows")


def keys_digest(keys: "NDArray[np.uint64]") -> str:
    """Digest over u64 keys in order, little-endian."""
    return blake2b_hex(keys.astype("<u8").tobytes())


def status_counts(status: "NDArray[np.uint8]") -> dict[str, int]:
    """Counts of the statuses that are not OK, by name in lower case."""
    counts = {reason.name.lower(): int((status == reason).sum()) for reason in RowStatus if reason != RowStatus.OK}
    return {name: count for name, count in counts.items() if count}


def is_reason(name: str) -> bool:
    """Whether a status can be called so, also one of a later version; readers keep a column of each."""
    return _REASON.fullmatch(name) is not None


def _source(entry: "Fields") -> dict[str, Any]:
    return {"url": entry.text("url"), "bytes": entry.number("bytes"), "blake2b": entry.digest("blake2b")}


def _counts(entry: "Fields") -> dict[str, int]:
    names = entry.names("outputs", MAX_OUTPUTS, is_output_name)
    return {name: entry.number(name, high=MAX_CAPACITY) for name in names}


def _errors(entry: "Fields") -> dict[str, MeasuredError]:
    names = entry.names("outputs", MAX_OUTPUTS, is_output_name)
    return {name: MeasuredError.from_json(entry.member(name)) for name in names}


def _reasons(entry: "Fields") -> dict[str, dict[str, int]]:
    return {name: _bad(entry.member(name)) for name in entry.names("outputs", MAX_OUTPUTS, is_output_name)}


def _bad(entry: "Fields") -> dict[str, int]:
    names = entry.names("statuses", MAX_REASONS, is_reason)
    return {name: entry.number(name, low=1, high=MAX_CAPACITY) for name in names}
