"""A small store of what the tiny teacher says, over shards that lie beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedkd.records import DecodePolicy, RowStatus, Shard, Split, TeacherSpec, key_hash
from embedkd.sources.shards import index_shards, list_data
from embedkd.storage import LocalStorage
from embedkd.store import EmbeddingStore, Pass, PassWriter, Slot, SlotRows, TeacherView, create_store, open_store
from tests.tiny import CLASSES, OUTPUTS, SPEC, places_in, said_of, write_shard


@dataclass(frozen=True)
class World:
    """Shards and their store.

    Attributes:
        data: Folder of the shards.
        store: Folder of the store.
        keys: Of each shard.
    """

    data: Path
    store: Path
    keys: Mapping[str, list[str]] = field(repr=False)

    @property
    def view(self) -> TeacherView:
        return open_store(self.store).teacher()


WorldMaker = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorldMaker:
    """Build a world, without waiting for the disk.

    Args of the factory:
        rows: Shard to its number of rows.
        bad: (slot, ordinal in it) to its status.
        holes: Slots that are not committed.
        labels: Whether samples have labels.
        capacity: Of the store.
        spec: The teacher.
    """

    monkeypatch.setattr("os.fsync", lambda handle: None)

    def make(
        rows: Mapping[str, int],
        *,
        bad: Mapping[tuple[int, int], RowStatus] | None = None,
        holes: tuple[int, ...] = (),
        labels: bool = True,
        capacity: int | None = None,
        spec: TeacherSpec = SPEC,
    ) -> World:
        data = tmp_path / "data"
        keys = {name: write_shard(data / name, count, labels=labels) for name, count in rows.items()}
        world = World(data, tmp_path / "store.zarr", keys)
        add_store(world, "store.zarr", bad=bad, holes=holes, labels=labels, capacity=capacity, specs=(spec,))
        return world

    return make


def add_store(
    world: World,
    name: str,
    *,
    specs: Sequence[TeacherSpec] = (SPEC,),
    says: Callable[[TeacherSpec, str, str], NDArray[np.float32]] = lambda spec, key, output: said_of(key, output),
    shards: Sequence[str] | None = None,
    split: Split | None = None,
    bad: Mapping[tuple[int, int], RowStatus] | None = None,
    holes: tuple[int, ...] = (),
    labels: bool = True,
    capacity: int | None = None,
    classes: tuple[str, ...] | None = None,
    policy: DecodePolicy | None = None,
) -> EmbeddingStore:
    """One more store of a world's shards.

    Args:
        world: The world.
        name: Of the folder, beside that of the world's own store.
        specs: Its teachers.
        says: From a teacher, a key and an output to a row.
        shards: Which shards, in this order; None for all.
        split: Of all of them; None for what their names say.
        bad: (slot, ordinal in it) to its status, of the last teacher.
        holes: Slots that are not committed.
        labels: Whether samples have labels.
        capacity: Rows a slot.
        classes: Class names.
        policy: How images were decoded; None for the default.
    """
    found = {shard.url: shard for shard in index_shards(list_data(str(world.data)))}
    chosen = tuple(found[url] for url in shards or found)
    chosen = tuple(replace(shard, split=split or shard.split) for shard in chosen)
    storage = LocalStorage(world.store.parent / name)
    store = create_store(
        storage, chosen, root="../data", classes=classes, policy=policy or DecodePolicy(), capacity=capacity
    )
    for spec in specs:
        writer = PassWriter(store, spec, Pass(OUTPUTS, 4, 1, "cpu"))
        lost = bad or {} if spec is specs[-1] else {}
        for slot in store.slots:
            if slot.index not in holes:
                keys = world.keys[slot.shard.url]
                writer.write(slot, slot_rows(slot, world.data, keys, lost, labels=labels, says=partial(says, spec)), {})
    return open_store(storage)


def slot_rows(
    slot: Slot,
    data: Path,
    keys: list[str],
    bad: Mapping[tuple[int, int], RowStatus],
    *,
    labels: bool,
    says: Callable[[str, str], NDArray[np.float32]] = said_of,
) -> SlotRows:
    numbers = range(slot.start, slot.start + slot.rows)
    status = np.array([bad.get((slot.index, i), RowStatus.OK) for i in range(slot.rows)], np.uint8)
    rows = {output: np.stack([says(keys[n], output) for n in numbers]) for output in OUTPUTS}
    for values in rows.values():
        values[status != RowStatus.OK] = np.nan
    return SlotRows(
        keys=np.array([key_hash(keys[n]) for n in numbers], np.uint64),
        labels=np.array([n % CLASSES if labels else -1 for n in numbers], np.int32),
        places=places_in(data / slot.shard.url, slot.start, slot.rows),
        outputs=rows,
        status=dict.fromkeys(rows, status),
        source=source_of(slot.shard),
    )


def source_of(shard: Shard) -> dict[str, object]:
    return {"url": shard.url, "bytes": shard.size_bytes, "blake2b": shard.blake2b}


@pytest.fixture
def world(make_world: WorldMaker) -> World:
    """19 training samples in three shards, and 4 for validation."""
    return make_world({"train-0.tar": 7, "train-1.tar": 9, "train-2.tar": 3, "val-0.tar": 4})
