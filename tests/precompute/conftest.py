"""Shards in a folder, and a processor of a tiny teacher's for them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from embedkd.config import Config, DataConfig, PrecomputeConfig
from embedkd.precompute import Job, ShardProcessor
from embedkd.progress import Progress, Silent
from embedkd.records import DecodePolicy
from embedkd.sources.shards import index_shards, list_data
from embedkd.storage import LocalStorage
from embedkd.store import EmbeddingStore, Pass, PassWriter, create_store
from tests.precompute.zoo import ONE, OTHER, Zoo
from tests.tiny import OUTPUTS, TinyTeacher, write_shard, write_tar

if TYPE_CHECKING:
    from embedkd.storage import Storage
    from embedkd.teachers.base import Teacher


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on bytes being durable."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@dataclass
class Bench:
    """Shards in a folder, and a place for stores beside it."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def shard(self, name: str, members: list[tuple[str, bytes]]) -> None:
        write_tar(self.data / name, members)

    def create(self, storage: "Storage", capacity: int | None = None) -> EmbeddingStore:
        listing = list_data(str(self.data))
        shards = index_shards(listing)
        names = tuple("abc")
        return create_store(storage, shards, root="../data", classes=names, policy=DecodePolicy(), capacity=capacity)

    def processor(
        self,
        store: EmbeddingStore,
        teacher: "Teacher | None" = None,
        *,
        workers: int = 0,
        outputs: tuple[str, ...] = OUTPUTS,
        max_bad_fraction: float = 1.0,
        progress: Progress | None = None,
    ) -> ShardProcessor:
        one = teacher or TinyTeacher()
        return ShardProcessor(
            store,
            str(self.data),
            [Job(one, PassWriter(store, one.spec, Pass(outputs, 3, 1, "cpu")))],
            decode_workers=workers,
            max_bad_fraction=max_bad_fraction,
            progress=progress or Silent(),
        )

    def run(self, teacher: "Teacher | None" = None, name: str = "store.zarr", **options: object) -> EmbeddingStore:
        capacity = options.pop("capacity", None)
        assert capacity is None or isinstance(capacity, int)
        store = self.create(LocalStorage(self.folder / name), capacity)
        self.processor(store, teacher, **options).run(store.slots)  # type: ignore[arg-type]
        return store

    def commits(self, name: str = "store.zarr") -> list[str]:
        return sorted(path.name for path in (self.folder / name).glob("teachers/*/*/commits/*.json"))


@pytest.fixture
def empty(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def bench(empty: Bench) -> Bench:
    """16 samples in three shards."""
    for name, rows in (("train-0.tar", 7), ("train-1.tar", 5), ("val-0.tar", 4)):
        write_shard(empty.data / name, rows)
    return empty


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """What every name loads."""
    made = Zoo()
    monkeypatch.setattr("embedkd.teachers.load_teacher", made.load)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """16 samples in three shards."""
    for name, rows in (("train-0.tar", 7), ("train-1.tar", 5), ("val-0.tar", 4)):
        write_shard(tmp_path / "data" / name, rows)
    return tmp_path / "data"


@pytest.fixture
def config(tmp_path: Path, folder: Path, zoo: Zoo) -> Config:
    """Two teachers on 16 samples in three shards."""
    settings = PrecomputeConfig(
        teachers=(ONE, OTHER),
        out=str(tmp_path / "store.zarr"),
        outputs=("cls", "pooled", "image", "text"),
        batch_size=3,
        threads=1,
        decode_workers=0,
        device="cpu",
    )
    return Config(data=DataConfig(shards=str(folder)), precompute=settings)
