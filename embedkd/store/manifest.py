"""The manifest: which shard fills which slots."""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import FormatError, IntegrityError
from embedkd.records import SPLITS, Shard
from embedkd.storage.places import place_from
from embedkd.store.documents import MAX_MANIFEST_BYTES, MAX_NUMBER, MAX_TEXT, Fields, has_control, unseal
from embedkd.store.schema import MAX_CAPACITY, MAX_CLASSES, MAX_SLOTS, check_capacity

if TYPE_CHECKING:
    from embedkd.storage import Storage

FOLDER = "manifest"
SYMBOLIC = "data:"
MAX_GENERATION = 99_999
_MIN_CAPACITY = 64
_NAME = re.compile(r"(0|[1-9][0-9]{0,4})\.json")
_SLOT_MEMBERS = ("url", "split", "bytes", "blake2b", "rows", "start", "n")
# Empty, absolute, with a part "..", of another system, or a URL; of urls that are joined by line ends.
_ODD_URL = re.compile(r"^$|^/|(^|/)\.\.(/|$)|\\|://", re.MULTILINE)


@dataclass(frozen=True)
class Slot:
    """A run of consecutive samples of one shard, the unit of writing: one chunk of every array.

    Attributes:
        index: Number of the slot, from 0.
        shard: The tar.
        start: Ordinal of the slot's first sample in the tar.
        rows: Number of samples.
    """

    index: int
    shard: Shard
    start: int
    rows: int


@dataclass(frozen=True)
class Manifest:
    """One generation of the manifest.

    Attributes:
        store: Id of the store that it belongs to.
        generation: From 0; appending makes a new one.
        root: Where the shards lie: a symbolic name, or a path relative to the store's own folder.
        classes: Class names in label order, or None where nobody named them.
        slots: In order.
        previous: Digest of the generation before; None for the first.
        digest: Its own, where it was read from a store.
    """

    store: str
    generation: int
    root: str
    classes: tuple[str, ...] | None
    slots: tuple[Slot, ...]
    previous: str | None = None
    digest: str = field(default="", compare=False)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The tars in order, each once."""
        return tuple(slot.shard for slot in self.slots if slot.start == 0)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        previous = {} if self.previous is None else {"previous": self.previous}
        return {
            **previous,
            "store_uuid": self.store,
            "generation": self.generation,
            "root": self.root,
            "classes": None if self.classes is None else list(self.classes),
            "slots": [
                {
                    "url": s.shard.url,
                    "split": s.shard.split,
                    "bytes": s.shard.size_bytes,
                    "blake2b": s.shard.blake2b,
                    "rows": s.shard.rows,
                    "start": s.start,
                    "n": s.rows,
                }
                for s in self.slots
            ],
        }

    @classmethod
    def from_json(cls, document: "Fields", capacity: int) -> "Manifest":
        """The inverse of `to_json`, with every number checked against the others.

        Raises:
            FormatError: A field is missing, of another type, or does not fit the rest.
        """
        where = document.where
        slots = _read_slots(document, capacity)
        manifest = cls(
            document.text("store_uuid"),
            document.number("generation", high=MAX_GENERATION),
            document.text("root"),
            document.texts("classes", MAX_CLASSES) if document.has("classes") else None,
            slots,
            document.digest("previous") if document.has("previous") else None,
            document.own_digest,
        )
        if (manifest.generation == 0) != (manifest.previous is None):
            raise FormatError(
                f"{where}: expected the digest of the generation before in every generation but the first"
            )
        if not is_portable(manifest.root):
            raise FormatError(f"{where}: expected a relative path or a symbolic name as root, got {manifest.root!r}")
        return manifest


def generations(storage: "Storage") -> list[int]:
    """Numbers of the manifests that are there, rising."""
    names = [name for name in storage.list_names(FOLDER) if _NAME.fullmatch(name)]
    return sorted(int(name.removesuffix(".json")) for name in names)


def read_manifest(storage: "Storage", generation: int, capacity: int) -> Manifest:
    """One generation of the manifest.

    Raises:
        FormatError: It is not of format 1.
        IntegrityError: It was changed, or is another generation.
    """
    key = f"{FOLDER}/{generation}.json"
    manifest = Manifest.from_json(unseal(storage.get(key, limit_bytes=MAX_MANIFEST_BYTES), key), capacity)
    if manifest.generation != generation:
        raise IntegrityError(f"{key} is generation {manifest.generation}; restore it")
    return manifest


def slots_of(shards: tuple[Shard, ...], capacity: int) -> tuple[Slot, ...]:
    """Cut shards into slots: ceil(rows / capacity) consecutive ones each, at least one.

    Raises:
        FormatError: The capacity is no power of two up to 16,384, or there are too many slots.
    """
    check_capacity(capacity)
    if _count_slots(shards, capacity) > MAX_SLOTS:
        raise FormatError(f"expected up to {MAX_SLOTS} slots, got {_count_slots(shards, capacity)}")
    slots: list[Slot] = []
    for shard in shards:
        for start in range(0, max(shard.rows, 1), capacity):
            slots.append(Slot(len(slots), shard, start, min(capacity, shard.rows - start)))
    return tuple(slots)


def _count_slots(shards: tuple[Shard, ...], capacity: int) -> int:
    """Without making them: the numbers may be a stranger's."""
    return sum(max(-(-shard.rows // capacity), 1) for shard in shards)


def fitting_capacity(shards: tuple[Shard, ...]) -> int:
    """The smallest power of two, between 64 and 16,384, that holds the longest shard in one slot if one can."""
    longest = max((shard.rows for shard in shards), default=1)
    return min(MAX_CAPACITY, max(_MIN_CAPACITY, 1 << max(longest - 1, 0).bit_length()))


def is_portable(root: str) -> bool:
    """Whether a root means the same wherever the store lies: a symbolic name or a relative path."""
    if root.startswith(SYMBOLIC):
        return True
    return bool(root) and "://" not in root and "\\" not in root and not PurePosixPath(root).is_absolute()


def resolve_root(root: str, store: str) -> str:
    """A manifest's root as a place that can be opened from here; a symbolic name stays itself.

    Raises:
        StorageError: It leads out of the store's bucket.
    """
    return root if root.startswith(SYMBOLIC) else place_from(store, root)


def _read_slots(document: "Fields", capacity: int) -> tuple[Slot, ...]:
    """The slots of a manifest, checked column by column: there may be many, and each by itself takes ten times as long.

    Raises:
        FormatError: A field is missing, of another type, or does not fit the others.
    """
    entries = document.members("slots", MAX_SLOTS)
    columns = {name: [entry.get(name) for entry in entries] for name in _SLOT_MEMBERS}
    if not entries or not _are_sound(columns):
        for number, entry in enumerate(entries):
            _check_slot(Fields(entry, f"{document.where}, slots {number}"))
    if not entries or not _are_cut(columns, capacity):
        raise FormatError(f"{document.where} does not cut its shards into slots of {capacity} rows, in order")
    slots: list[Slot] = []
    for url, split, size_bytes, blake2b, rows, start, n in zip(*columns.values(), strict=True):
        shard = Shard(url, split, size_bytes, rows, blake2b) if start == 0 else slots[-1].shard
        slots.append(Slot(len(slots), shard, start, n))
    _check_different(slots, document.where)
    return tuple(slots)


def _check_different(slots: list[Slot], where: str) -> None:
    """Refuse two shards of one name: appending and merging tell shards apart by it."""
    urls: set[str] = set()
    for slot in slots:
        if slot.start == 0 and slot.shard.url in urls:
            raise FormatError(f"{where}: expected every shard once, got {slot.shard.url!r} twice")
        urls.add(slot.shard.url)


def _are_sound(columns: dict[str, list[Any]]) -> bool:
    """Whether every member of every slot has its type and is within its bounds."""
    urls, splits, digests = columns["url"], columns["split"], columns["blake2b"]
    if {type(value) for column in (urls, splits, digests) for value in column} != {str}:
        return False
    numbers = [columns[name] for name in ("bytes", "rows", "start", "n")]
    if {type(value) for column in numbers for value in column} != {int}:
        return False
    return (
        max(map(len, urls)) <= MAX_TEXT
        and not has_control("".join(urls))
        and not _ODD_URL.search("\n".join(urls))
        and set(splits) <= set(SPLITS)
        and {len(digest) for digest in digests} == {64}
        and not set("".join(digests)) - set("0123456789abcdef")
        and all(min(column) >= 0 and max(column) <= MAX_NUMBER for column in numbers)
    )


def _are_cut(columns: dict[str, list[Any]], capacity: int) -> bool:
    """Whether each shard fills consecutive slots, each full but the last, with its facts repeated in each."""
    rows, start, n = (np.array(columns[name], np.int64) for name in ("rows", "start", "n"))
    if not (start < np.maximum(rows, 1)).all() or not (n == np.minimum(capacity, rows - start)).all():
        return False
    first, ends = start == 0, rows - start <= capacity
    if not first[0] or not np.array_equal(first[1:], ends[:-1]) or not ends[-1]:
        return False
    later = np.flatnonzero(~first)
    if not (start[later] == start[later - 1] + capacity).all():
        return False
    facts = [columns[name] for name in ("url", "split", "bytes", "blake2b", "rows")]
    return all(column[i] == column[i - 1] for i in later.tolist() for column in facts)


def _check_slot(entry: "Fields") -> None:
    """Refuse a slot with a member that is missing, of another type or out of bounds."""
    if entry.text("split") not in SPLITS:
        raise FormatError(f"{entry.where}: expected a split of {', '.join(SPLITS)}, got {entry.text('split')!r}")
    if _ODD_URL.search(entry.text("url")):
        raise entry.unexpected("url to be a relative path without '..'", entry.text("url"))
    entry.digest("blake2b")
    for name in ("bytes", "rows", "start", "n"):
        entry.number(name)
