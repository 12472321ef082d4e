"""Small stores with everything in them: long shards, bad rows, two teachers, two passes, class sets."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from embedkd.records import DecodePolicy, OutputSpec, Preprocess, Shard, TeacherSpec, key_hash
from embedkd.seeding import generator
from embedkd.storage import LocalStorage
from embedkd.store import (
    EmbeddingStore,
    Pass,
    PassWriter,
    Slot,
    SlotRows,
    average,
    create_store,
    open_store,
    write_class_set,
)
from tests.store.samples import make, places_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

settings.register_profile("busy", deadline=None)  # other processes may want the cores too
settings.load_profile("busy")

CAPACITY = 8
PLAN = Pass(("cls", "pooled"), 8, 1, "a processor")
CLASSES = ("ant", "bee", "cat")
SHARDS = (
    Shard("train-0.tar", "train", 9_216, 11, "a" * 64),  # longer than a slot
    Shard("train-1.tar", "train", 10_240, 5, "b" * 64),
    Shard("val-0.tar", "val", 2_048, 3, "c" * 64),
    Shard("deep/test-0.tar", "test", 1_024, 0, "d" * 64),
)


def _spec(name: str = "vit:Small", weights: str = "0", **changes: Any) -> TeacherSpec:
    spec = TeacherSpec(
        name=name,
        model="small",
        weights_sha256=weights * 64,
        outputs=(OutputSpec("cls", 6), OutputSpec("pooled", 3, "float32"), OutputSpec("logits", 4)),
        preprocess=Preprocess(224, (224, 224), "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        normalised=False,
        precision="float32",
        source="a folder",
        libraries=(("torch", "2.6"),),
    )
    return replace(spec, **changes)


ENCODED = _spec(
    outputs=(
        OutputSpec("cls", 6, "int8"),
        OutputSpec("image", 6),
        OutputSpec("pooled", 5, "bfloat16"),
        OutputSpec("logits", 7, "top3"),
    )
)
ENCODED_OUTPUTS = tuple(output.name for output in ENCODED.outputs)


def _rows(slot: Slot, spec: TeacherSpec, outputs: tuple[str, ...], seed: int = 0) -> SlotRows:
    """A function of (slot, teacher, seed) alone; the second sample of every slot cannot be decoded."""
    rng = generator(seed, spec.name, slot.index)
    status = np.ones(slot.rows, np.uint8)
    status[1:2] = 2
    labels = np.array([(slot.start + i) % 2 for i in range(slot.rows)], np.int32)  # the class "cat" stays empty
    labels[2:3] = -1
    said: dict[str, NDArray[np.float32]] = {}
    for name in outputs:
        output = spec.output(name)
        assert output is not None
        said[name] = rng.normal(size=(slot.rows, output.dim)).astype(np.float32)
        said[name][status != 1] = np.nan
    if "logits" in said:
        said["logits"][0:1] = 1e6  # more than float16 holds
    return SlotRows(
        keys=np.array([key_hash(f"{slot.shard.url}/{slot.start + i}") for i in range(slot.rows)], np.uint64),
        labels=labels,
        places=places_of(slot),
        outputs=said,
        status=dict.fromkeys(said, status),
        source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
    )


def _files(store: EmbeddingStore) -> dict[str, bytes]:
    root = Path(store.storage.url)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Kit:
    """What tests make stores of."""

    spec: Callable[..., TeacherSpec] = _spec
    rows: Callable[..., SlotRows] = _rows
    files: Callable[[EmbeddingStore], dict[str, bytes]] = _files
    plan: Pass = PLAN
    shards: tuple[Shard, ...] = SHARDS
    classes: tuple[str, ...] | None = CLASSES

    def create(self, folder: Path, **changes: Any) -> EmbeddingStore:
        settings: dict[str, Any] = {
            "root": "../data",
            "classes": self.classes,
            "policy": DecodePolicy(),
            "capacity": CAPACITY,
        }
        return create_store(LocalStorage(folder), self.shards, **(settings | changes))

    def fill(self, store: EmbeddingStore, spec: TeacherSpec, outputs: tuple[str, ...], seed: int = 0) -> PassWriter:
        writer = PassWriter(store, spec, Pass(outputs, 8, 1, "a processor"))
        for slot in store.slots:
            writer.write(slot, self.rows(slot, spec, outputs, seed), {"system": "a machine"})
        return writer

    def whole(self, folder: Path, *, seed: int = 0, logits: bool = True, **changes: Any) -> EmbeddingStore:
        """Two teachers, the first with one or two passes, and class sets of two outputs."""
        store = self.create(folder, **changes)
        self.fill(store, self.spec(), ("cls", "pooled"), seed)
        if logits:
            self.fill(store, self.spec(), ("logits",), seed)
        self.fill(store, self.spec("vit:Other", "1"), ("cls",), seed)
        store = open_store(folder)
        for teacher_id in store.teacher_ids:
            view = store.teacher(teacher_id)
            write_class_set(view, "cls", average(view, "cls", samples_per_class=2, seed=0))
        view = store.teacher("vit:Small")
        write_class_set(view, "pooled", average(view, "pooled", samples_per_class=2, seed=0))
        return store


@pytest.fixture(scope="session", autouse=True)
def fast_disk() -> Iterator[None]:
    """Nobody pulls the plug during these tests; tests/storage proves that everything is synced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture(scope="session")
def whole_store(fast_disk: None, kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store that nobody may change: copy it."""
    folder = tmp_path_factory.mktemp("whole") / "store.zarr"
    kit.whole(folder)
    return folder


@pytest.fixture(scope="session")
def encoded_store(fast_disk: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a teacher with an output in each encoding, which nobody may change: copy it."""
    folder = tmp_path_factory.mktemp("encoded") / "store.zarr"
    make(folder, {ENCODED: (ENCODED_OUTPUTS,)})
    return folder


@pytest.fixture
def store(tmp_path: Path, kit: Kit) -> EmbeddingStore:
    """A new store without rows."""
    return kit.create(tmp_path / "s.zarr")


@pytest.fixture
def writer(store: EmbeddingStore, kit: Kit) -> PassWriter:
    return PassWriter(store, kit.spec(), PLAN)


@pytest.fixture
def rows(store: EmbeddingStore, kit: Kit) -> SlotRows:
    """Of slot 0."""
    return kit.rows(store.slots[0], kit.spec(), PLAN.outputs)
