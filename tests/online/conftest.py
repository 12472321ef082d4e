"""A store of a teacher that takes microseconds, its shards, and a config of a run that learns from it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from embedkd.config import Config, load_config
from embedkd.records import DecodePolicy, RowStatus, key_hash
from embedkd.sources.shards import index_shards, list_data
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, SlotRows, TeacherView, create_store
from embedkd.teachers import LoadOptions
from tests.tiny import CLASSES, OUTPUTS, SPEC, TinyTeacher, places_in, said_of, write_shard

ROWS = {"train-0.tar": 13, "val-0.tar": 5}
UNAUGMENTED = ("augment.crop_padding_px=0", "augment.flip=0")


@dataclass
class Loaded:
    """What was asked of the catalogue, and what it gave."""

    asked: list[tuple[str, LoadOptions]] = field(default_factory=list)
    teachers: list[TinyTeacher] = field(default_factory=list)

    def load(self, name: str, options: LoadOptions) -> TinyTeacher:
        self.asked.append((name, options))
        self.teachers.append(TinyTeacher())
        return self.teachers[-1]


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loaded]:
    """Every name loads the tiny teacher; small tensors are not worth a second thread."""
    found = Loaded()
    monkeypatch.setattr("embedkd.teachers.load_teacher", found.load)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield found
    torch.set_num_threads(threads)


@pytest.fixture
def view(tmp_path: Path) -> TeacherView:
    """The tiny teacher's rows in a store, beside its shards."""
    keys = {name: write_shard(tmp_path / "data" / name, rows) for name, rows in ROWS.items()}
    shards = index_shards(list_data(str(tmp_path / "data")))
    storage = LocalStorage(tmp_path / "store.zarr")
    classes = tuple("abcdefg"[:CLASSES])
    store = create_store(storage, shards, root="../data", classes=classes, policy=DecodePolicy())
    writer = PassWriter(store, SPEC, Pass(OUTPUTS, 3, 1, "cpu"))
    for slot in store.slots:
        names, shard = keys[slot.shard.url], slot.shard
        made = SlotRows(
            np.array([key_hash(name) for name in names], np.uint64),
            np.arange(len(names), dtype=np.int32) % CLASSES,
            places_in(tmp_path / "data" / shard.url),
            {output: np.stack([said_of(name, output) for name in names]) for output in OUTPUTS},
            dict.fromkeys(OUTPUTS, np.full(len(names), RowStatus.OK, np.uint8)),
            {"url": shard.url, "bytes": shard.size_bytes, "blake2b": shard.blake2b},
        )
        writer.write(slot, made, {})
    return store.teacher()


ConfigOf = Callable[..., Config]


@pytest.fixture
def config_of(view: TeacherView, tmp_path: Path) -> ConfigOf:
    """A config of 2 epochs of 4 steps, the last of an odd number of samples."""

    def make(*sets: str, out: str = "run", losses: dict[str, float] | None = None) -> Config:
        settings = (
            f"train.targets={view.store.storage.url}",
            f"train.out={tmp_path / out}",
            *("train.epochs=2", "train.global_batch_size=4", "train.workers=0", "train.device=cpu", "train.logs=[]"),
            *("student.image_px=8", "student.patch_px=4"),
        )
        chosen = {"cross_entropy": 0.5, "mse": 1.0} if losses is None else losses
        return load_config(values={"losses": chosen}, sets=[*settings, *sets])

    return make
