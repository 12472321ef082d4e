"""Stores whose rows are a function of the sample alone, so that they can be cut and put together in any way."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkd.records import SPLITS, DecodePolicy, OutputSpec, RowStatus, Shard, Split, TeacherSpec, key_hash
from embedkd.storage import LocalStorage
from embedkd.store import EmbeddingStore, Pass, PassWriter, Slot, SlotRows, create_store, open_store
from embedkd.store.quantising import encode

TRAIN, VAL, TEST = SPLITS
# One shard is longer than a slot, one is empty, and one fills two slots.
ROWS: tuple[tuple[Split, int], ...] = ((TRAIN, 11), (TRAIN, 5), (VAL, 3), (TEST, 0), (TRAIN, 16))
SHARDS = tuple(
    Shard(f"{split}-{i}.tar", split, 1_024 * (i + 1), rows, f"{i + 1:x}" * 64) for i, (split, rows) in enumerate(ROWS)
)
CLASSES = ("ant", "bee", "cat")


def encoded(
    rows: NDArray[np.float32], status: NDArray[np.uint8], encoding: str
) -> tuple[NDArray[np.floating[Any]], NDArray[np.uint8]]:
    """Rows as a reader gets them, and their status."""
    found = encode(OutputSpec("logits", rows.shape[1], encoding), rows, status)
    return found.rows.decode(), found.status


def places_of(slot: Slot) -> NDArray[np.uint64]:
    """Places of the samples of a slot, one behind the other in a tar that nobody made."""
    ordinals = np.arange(slot.start, slot.start + slot.rows, dtype=np.uint64)
    size = np.uint64(slot.shard.size_bytes // max(slot.shard.rows, 1))
    checksums = (ordinals + np.uint64(1)) * np.uint64(2_654_435_761) % np.uint64(1 << 32)
    return np.stack([ordinals * size, np.full_like(ordinals, size), checksums], axis=1)


def rows_of(slot: Slot, spec: TeacherSpec, outputs: Sequence[str], noise: float = 0.0) -> SlotRows:
    """What a teacher says of the samples of a slot; every fifth sample cannot be decoded, labels go round."""
    names = [f"{slot.shard.url}/{slot.start + i}" for i in range(slot.rows)]
    status = np.array([2 if (slot.start + i) % 5 == 4 else 1 for i in range(slot.rows)], np.uint8)
    said: dict[str, Any] = {}
    for output in outputs:
        found = spec.output(output)
        assert found is not None
        seeds = [hashlib.blake2b(f"{spec.title} {output} {name}".encode(), digest_size=8).digest() for name in names]
        rows = [np.random.default_rng(list(seed)).normal(size=found.dim) + noise for seed in seeds]
        said[output] = np.array(rows, np.float32).reshape(len(names), found.dim)
        said[output][status != RowStatus.OK] = np.nan
    return SlotRows(
        keys=np.array([key_hash(name) for name in names], np.uint64),
        labels=np.array([(slot.start + i) % 3 for i in range(slot.rows)], np.int32),
        places=places_of(slot),
        outputs=said,
        status=dict.fromkeys(said, status),
        source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
    )


def make(
    folder: Path,
    teachers: Mapping[TeacherSpec, tuple[tuple[str, ...], ...]],
    shards: Sequence[Shard] = SHARDS,
    capacity: int = 8,
    noise: float = 0.0,
    **changes: Any,
) -> EmbeddingStore:
    """A finished store: teachers with their passes."""
    settings: dict[str, Any] = {
        "root": "data:tests",
        "classes": CLASSES,
        "policy": DecodePolicy(),
        "capacity": capacity,
    }
    store = create_store(LocalStorage(folder), tuple(shards), **(settings | changes))
    for spec, passes in teachers.items():
        for outputs in passes:
            writer = PassWriter(store, spec, Pass(outputs, 8, 1, "a processor"))
            for slot in store.slots:
                writer.write(slot, rows_of(slot, spec, outputs, noise), {"system": folder.name})
    return open_store(folder)


def contents(store: EmbeddingStore) -> dict[tuple[str, str, str], tuple[bytes, ...]]:
    """All rows by teacher, output and shard, whatever the capacity."""
    found: dict[tuple[str, str, str], tuple[bytes, ...]] = {}
    for name in store.teacher_ids:
        view = store.teacher(name)
        for output in view.outputs:
            for slot in store.slots:
                if view.commit(slot, output) is not None:
                    place, read = (name, output, slot.shard.url), view.read(slot, output)
                    arrays = (read.rows, read.status, read.keys, read.labels, read.places)
                    parts = tuple(array.tobytes() for array in arrays)
                    before = found.get(place, (b"",) * len(parts))
                    found[place] = tuple(a + b for a, b in zip(before, parts, strict=True))
    return found


def files(folder: Path) -> dict[str, bytes]:
    """Every object's bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
