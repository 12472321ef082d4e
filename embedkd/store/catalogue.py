"""Catalogues: what a store held when it was sealed, by name and digest, so that it can be opened without listing.

Catalogues are numbered from 0 without a gap and only ever created, so the newest is found by asking which are there. A
place that cannot list (plain HTTP) is read as its newest catalogue says; any other is listed, and later work is seen.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedkd.errors import IntegrityError, ObjectMissingError
from embedkd.store.documents import MAX_DOCUMENT_BYTES, unseal
from embedkd.store.manifest import FOLDER as MANIFESTS
from embedkd.store.manifest import MAX_GENERATION
from embedkd.store.measured import MeasuredError
from embedkd.store.passes import MAX_OUTPUTS, is_pass_id
from embedkd.store.schema import MAX_SLOTS, class_folder, is_output_name, is_set_name, is_teacher_id, teacher_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from embedkd.storage import Storage
    from embedkd.store.documents import Fields

FOLDER = "sealed"
MAX_NAMES = 1 << 16  # of one kind in one place; each of them is asked for
MAX_CATALOGUE = 99_999


@dataclass(frozen=True)
class SealedPass:
    """One pass in a catalogue.

    Attributes:
        digest: Of its ``pass.json``.
        index: Number of its sealed index; None where no slot was committed.
        index_digest: Of that index; empty without one.
        slots: Slots in the index.
        error: Output to what its encoding lost in all these slots.
    """

    digest: str
    index: int | None = None
    index_digest: str = ""
    slots: int = 0
    error: "Mapping[str, MeasuredError]" = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        error = {name: measured.to_json() for name, measured in self.error.items()}
        index = {"number": self.index, "digest": self.index_digest, "slots": self.slots, "error": error}
        return {"pass": self.digest, "index": None if self.index is None else index}

    @classmethod
    def from_json(cls, entry: "Fields") -> "SealedPass":
        """The inverse of `to_json`."""
        if not entry.has("index"):
            return cls(entry.digest("pass"))
        index = entry.member("index")
        slots = index.number("slots", low=1, high=MAX_SLOTS)
        error = index.member("error")
        return cls(
            entry.digest("pass"),
            index.number("number", high=MAX_CATALOGUE),
            index.digest("digest"),
            slots,
            {
                name: MeasuredError.from_json(error.member(name))
                for name in error.names("outputs", MAX_OUTPUTS, is_output_name)
            },
        )


@dataclass(frozen=True)
class SealedTeacher:
    """One teacher in a catalogue.

    Attributes:
        digest: Of its group.
        passes: By id.
        classes: Class set to output to the digest of its group.
        heads: Head to the digest of its group.
    """

    digest: str
    passes: "Mapping[str, SealedPass]"
    classes: "Mapping[str, Mapping[str, str]]"
    heads: "Mapping[str, str]"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "group": self.digest,
            "passes": {name: entry.to_json() for name, entry in self.passes.items()},
            "classes": {name: dict(outputs) for name, outputs in self.classes.items()},
            "heads": dict(self.heads),
        }

    @classmethod
    def from_json(cls, entry: "Fields") -> "SealedTeacher":
        """The inverse of `to_json`."""
        passes, classes, heads = (entry.member(name) for name in ("passes", "classes", "heads"))
        sets = classes.names("class sets", MAX_NAMES, is_set_name)
        return cls(
            entry.digest("group"),
            {name: SealedPass.from_json(passes.member(name)) for name in passes.names("passes", MAX_NAMES, is_pass_id)},
            {name: _digests(classes.member(name), "outputs", is_output_name) for name in sets},
            _digests(heads, "heads", is_set_name),
        )


@dataclass(frozen=True)
class Catalogue:
    """What was sealed.

    Attributes:
        store: Id of the store.
        number: From 0, a seal each.
        generation: Of the manifest.
        manifest: Its digest.
        teachers: By id.
    """

    store: str
    number: int
    generation: int
    manifest: str
    teachers: "Mapping[str, SealedTeacher]"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "store_uuid": self.store,
            "number": self.number,
            "generation": self.generation,
            "manifest": self.manifest,
            "teachers": {name: entry.to_json() for name, entry in self.teachers.items()},
        }

    @classmethod
    def from_json(cls, document: "Fields") -> "Catalogue":
        """The inverse of `to_json`.

        Raises:
            FormatError: A member is missing or of another type, or a name is none of a store's.
        """
        teachers = document.member("teachers")
        return cls(
            document.text("store_uuid"),
            document.number("number", high=MAX_CATALOGUE),
            document.number("generation", high=MAX_GENERATION),
            document.digest("manifest"),
            {
                name: SealedTeacher.from_json(teachers.member(name))
                for name in teachers.names("teachers", MAX_NAMES, is_teacher_id)
            },
        )

    def pass_of(self, teacher_id: str, pass_id: str) -> SealedPass | None:
        """What it says of one pass."""
        teacher = self.teachers.get(teacher_id)
        return None if teacher is None else teacher.passes.get(pass_id)

    def names(self) -> "dict[str, set[str]]":
        """What listing would show: folder to names, as far as it was sealed."""
        keys = [f"{MANIFESTS}/{self.generation}.json"]
        for teacher_id, teacher in self.teachers.items():
            base = teacher_folder(teacher_id)
            keys += [f"{base}/zarr.json", *(f"{base}/{name}/pass.json" for name in teacher.passes)]
            sets = [class_folder(teacher_id, name, output) for name, of in teacher.classes.items() for output in of]
            keys += [f"{folder}/zarr.json" for folder in (*sets, *(f"{base}/heads/{name}" for name in teacher.heads))]
        found: dict[str, set[str]] = {}
        for key in keys:
            folder = ""
            for name in key.split("/"):
                found.setdefault(folder, set()).add(name)
                folder = f"{folder}/{name}".lstrip("/")
        return found


class Unlisted:
    """A storage that cannot list, with the names of a catalogue in place of a listing; all else is the storage's own.

    Args:
        storage: The storage.
        catalogue: Says what is there.
    """

    def __init__(self, storage: "Storage", catalogue: Catalogue) -> None:
        self._storage = storage
        self._names = catalogue.names()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # unpickling asks before there is anything
            raise AttributeError(name)
        return getattr(self._storage, name)

    def list_names(self, prefix: str) -> list[str]:
        """See `Storage.list_names`."""
        return sorted(self._names.get(prefix.strip("/"), ()))


def catalogue_key(number: int) -> str:
    """Key of a catalogue."""
    return f"{FOLDER}/{number}.json"


def newest_catalogue(storage: "Storage", store: str) -> Catalogue | None:
    """The newest catalogue of a store, or None where it was never sealed.

    Raises:
        FormatError: It is not of format 1.
        IntegrityError: It was changed, or belongs to another store.
    """
    count = _count(storage)
    return read_catalogue(storage, store, count - 1) if count else None


def read_catalogue(storage: "Storage", store: str, number: int) -> Catalogue:
    """One catalogue of a store.

    Raises:
        FormatError: It is not of format 1.
        IntegrityError: It is not there, was changed, or belongs to another store.
    """
    key = catalogue_key(number)
    try:
        data = storage.get(key, limit_bytes=MAX_DOCUMENT_BYTES)
    except ObjectMissingError as error:
        raise IntegrityError(f"{storage.url} lacks {key}; restore it from a copy") from error
    found = Catalogue.from_json(unseal(data, key))
    if (found.store, found.number) != (store, number):
        raise IntegrityError(f"{key} belongs to another store or has another number; restore it")
    return found


def _count(storage: "Storage") -> int:
    """How many catalogues there are; they have no gap, so doubling and halving finds it in few questions."""
    there = 0  # so many are there for certain
    step = 1
    while there + step <= MAX_CATALOGUE and storage.exists(catalogue_key(there + step - 1)):
        there, step = there + step, 2 * step
    while step > 1:
        step //= 2
        if storage.exists(catalogue_key(there + step - 1)):
            there += step
    return there


def _digests(entry: "Fields", what: str, is_name: "Callable[[str], bool]") -> dict[str, str]:
    return {name: entry.digest(name) for name in entry.names(what, MAX_NAMES, is_name)}
