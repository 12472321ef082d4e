"""The manifest: which shard fills which slots."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from embedkd.errors import FormatError
from embedkd.records import SPLITS, Shard, Split
from embedkd.store.schema import MAX_CAPACITY, MAX_CLASSES, MAX_SLOTS, check_capacity

if TYPE_CHECKING:
    from embedkd.store.documents import Fields

FOLDER = "manifest"
SYMBOLIC = "data:"
_MIN_CAPACITY = 64


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
    """

    store: str
    generation: int
    root: str
    classes: tuple[str, ...] | None
    slots: tuple[Slot, ...]

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The tars in order, each once."""
        return tuple(slot.shard for slot in self.slots if slot.start == 0)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
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
        slots = tuple(_slot(i, entry) for i, entry in enumerate(document.objects("slots", MAX_SLOTS)))
        manifest = cls(
            document.text("store_uuid"),
            document.number("generation"),
            document.text("root"),
            document.texts("classes", MAX_CLASSES) if document.has("classes") else None,
            slots,
        )
        if not is_portable(manifest.root):
            raise FormatError(f"{where}: expected a relative path or a symbolic name as root, got {manifest.root!r}")
        if not slots or _count_slots(manifest.shards, capacity) != len(slots):
            raise FormatError(f"{where} does not cut its shards into slots of {capacity} rows")
        if slots != slots_of(manifest.shards, capacity):
            raise FormatError(f"{where} does not cut its shards into slots of {capacity} rows, in order")
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


def resolve_root(root: str, store: Path) -> str:
    """A manifest's root as a path that can be opened from here; a symbolic name stays itself."""
    return root if root.startswith(SYMBOLIC) else str((store.absolute() / root).resolve())


def _slot(index: int, entry: "Fields") -> Slot:
    split = entry.text("split")
    if split not in SPLITS:
        raise FormatError(f"{entry.where}: expected a split of {', '.join(SPLITS)}, got {split!r}")
    known: Split = split
    shard = Shard(entry.text("url"), known, entry.number("bytes"), entry.number("rows"), entry.digest("blake2b"))
    return Slot(index, shard, entry.number("start"), entry.number("n"))
