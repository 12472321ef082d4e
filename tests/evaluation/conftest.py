"""A student trained for two steps, from a store and from plain shards, in folders that each test may break."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from embedkd.config import Config, load_config
from embedkd.records import (
    DecodePolicy,
    OutputSpec,
    RowStatus,
    Shard,
    Split,
    TeacherSpec,
    blake2b_hex,
    canonical_json,
    key_hash,
)
from embedkd.storage import LocalStorage
from embedkd.store import ClassSet, Pass, PassWriter, SlotRows, average, create_store, write_class_set
from embedkd.store.classes import prompts_digest
from embedkd.training import train
from tests.tiny import CLASSES, PX, SPEC, TEXT_SPEC, places_in, said_of, write_shard

NAMES = ["ant", "bee", "cat"]
ROWS: dict[Split, int] = {"train": 20, "val": 7, "test": 11}
PAIR_SPEC = replace(TEXT_SPEC, outputs=(*TEXT_SPEC.outputs, OutputSpec("logits", CLASSES, "float32")))
PROMPTS = ("a {}",)
TEXTS = np.random.default_rng(5).normal(size=(CLASSES, 5)).astype(np.float32)


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


def says(key: str, output: str, label: int) -> NDArray[np.float32]:
    """A row of a teacher: logits that are right of two samples in three, else what the tiny teacher says."""
    if output == "logits":
        row = np.zeros(CLASSES, np.float32)
        row[(label + (int(key[-1]) % 3 == 0)) % CLASSES] = 1
        return row
    row = said_of(key, "cls")
    return row if output == "cls" else np.negative(row)


def write_store(
    path: Path, data: Path, spec: TeacherSpec = SPEC, rows: Mapping[Split, int] = MappingProxyType(ROWS)
) -> None:
    """What a tiny teacher says of them: embeddings, of a pair also logits and class texts."""
    outputs = ("cls",) if spec is SPEC else ("image", "logits")
    shards = tuple(
        Shard(tar.name, split, tar.stat().st_size, rows[split], blake2b_hex(tar.read_bytes()))
        for split in rows
        for tar in data.glob(f"{split}-*.tar")
    )
    store = create_store(LocalStorage(path), shards, root="../data", classes=tuple(NAMES), policy=DecodePolicy())
    writer = PassWriter(store, spec, Pass(outputs, 8, 1, "none"))
    for slot in store.slots:
        keys = [f"{slot.shard.split}-000000/{number:03d}" for number in range(slot.rows)]
        labels = [number % CLASSES for number in range(slot.rows)]
        made = SlotRows(
            keys=np.array([key_hash(key) for key in keys], np.uint64),
            labels=np.array(labels, np.int32),
            places=places_in(data / slot.shard.url),
            outputs={output: np.stack(list(map(says, keys, [output] * slot.rows, labels))) for output in outputs},
            status={output: np.full(slot.rows, RowStatus.OK, np.uint8) for output in outputs},
            source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
        )
        writer.write(slot, made, {})
    view = store.teacher()
    write_class_set(view, outputs[0], average(view, outputs[0], samples_per_class=100, seed=0))
    if spec is not SPEC:
        counts, spread = np.ones(CLASSES, np.int64), np.zeros(CLASSES, np.float32)
        texts = ClassSet("prompts-simple", TEXTS, counts, spread, 1, 0, prompts_digest(PROMPTS, NAMES), PROMPTS)
        write_class_set(view, "text", texts)


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
    values = {"recipe": "clip-embed-kd"}
    return load_config(values=values, sets=[*(f"{key}={value}" for key, value in settings.items()), *sets])


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data``, ``store.zarr`` over it, and finished runs ``stored``, ``plain``, ``pair``; nothing may write here."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_data(folder / "data", ROWS)
    write_store(folder / "store.zarr", folder / "data")
    train(config_of(folder / "stored", f"train.targets={folder / 'store.zarr'}"))
    train(config_of(folder / "plain", f"data.shards={folder / 'data'}", "losses.class_contrastive=0"))
    write_store(folder / "pair.zarr", folder / "data", PAIR_SPEC)
    losses = ("losses.class_contrastive=0", "losses.cosine=1", "losses.interactive_contrastive=1")
    still = ("augment.crop_padding_px=0", "augment.flip=0")
    train(config_of(folder / "pair", f"train.targets={folder / 'pair.zarr'}", *losses, *still))
    return folder


@pytest.fixture
def run_of(home: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the runs."""
    return lambda name: Path(shutil.copytree(home / name, tmp_path / name))


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., Path]:
    """Other shards, as `write_data` makes them."""
    return lambda *arguments, **options: write_data(tmp_path / "other", *arguments, **options)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are not worth a second thread, least of all when tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
