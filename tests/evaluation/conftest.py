"""A student trained for two steps, from a store and from plain shards, in folders that each test may break."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from embedkd.config import Config, load_config
from embedkd.records import DecodePolicy, RowStatus, Shard, Split, blake2b_hex, canonical_json, key_hash
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, SlotRows, average, create_store, write_class_set
from embedkd.training import train
from tests.tiny import CLASSES, PX, SPEC, places_in, said_of, write_shard

NAMES = ["ant", "bee", "cat"]
ROWS: dict[Split, int] = {"train": 20, "val": 7, "test": 11}


def write_data(folder: Path, rows: dict[Split, int], names: list[str] | None = None, *, labels: bool = True) -> Path:
    """Shards of random images with an index."""
    shards = []
    for split, count in rows.items():
        path = folder / f"{split}-000000.tar"
        write_shard(path, count, labels=labels)
        data = path.read_bytes()
        shards.append(asdict(Shard(path.name, split, len(data), count, blake2b_hex(data))))
    index = {"format": 1, "classes": NAMES if names is None else names, "shards": shards}
    (folder / "index.json").write_bytes(canonical_json(index))
    return folder


def write_store(path: Path, data: Path) -> None:
    """What the tiny teacher says of them."""
    shards = tuple(
        Shard(tar.name, split, tar.stat().st_size, ROWS[split], blake2b_hex(tar.read_bytes()))
        for split in ROWS
        for tar in data.glob(f"{split}-*.tar")
    )
    store = create_store(LocalStorage(path), shards, root="../data", classes=tuple(NAMES), policy=DecodePolicy())
    writer = PassWriter(store, SPEC, Pass(("cls",), 8, 1, "none"))
    for slot in store.slots:
        keys = [f"{slot.shard.split}-000000/{number:03d}" for number in range(slot.rows)]
        rows = SlotRows(
            keys=np.array([key_hash(key) for key in keys], np.uint64),
            labels=np.arange(slot.rows, dtype=np.int32) % CLASSES,
            places=places_in(data / slot.shard.url),
            outputs={"cls": np.stack([said_of(key, "cls") for key in keys])},
            status={"cls": np.full(slot.rows, RowStatus.OK, np.uint8)},
            source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
        )
        writer.write(slot, rows, {})
    view = store.teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=100, seed=0))


def config_of(folder: Path, *sets: str) -> Config:
    settings = {
        "train.out": folder,
        "train.epochs": 1,
        "train.global_batch_size": 8,
        "train.workers": 0,
        "train.device": "cpu",
        "student.image_px": PX,
        "student.patch_px": 3,
        "augment.crop_padding_px": 1,
    }
    return load_config(sets=[*(f"{key}={value}" for key, value in settings.items()), *sets])


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data``, ``store.zarr`` over it, and the finished runs ``stored`` and ``plain``; nothing may write here."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_data(folder / "data", ROWS)
    write_store(folder / "store.zarr", folder / "data")
    train(config_of(folder / "stored", f"train.targets={folder / 'store.zarr'}"))
    train(config_of(folder / "plain", f"data.shards={folder / 'data'}", "losses.class_contrastive=0"))
    return folder


@pytest.fixture
def run_of(home: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the runs."""
    return lambda name: Path(shutil.copytree(home / name, tmp_path / name))


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., Path]:
    """Other shards, as `write_data` makes them."""
    return lambda *arguments, **options: write_data(tmp_path / "other", *arguments, **options)
