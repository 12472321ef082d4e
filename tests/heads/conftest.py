"""A store whose rows are noisy class centres, written without any teacher."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from embedkd.records import DecodePolicy, OutputSpec, Preprocess, RowStatus, Shard, Split, TeacherSpec, key_hash
from embedkd.storage import LocalStorage
from embedkd.store import ClassSet, Pass, PassWriter, SlotRows, TeacherView, create_store, open_store, write_class_set
from embedkd.store.classes import prompts_digest
from tests.store.samples import places_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIM, CLASSES = 6, ("ant", "bee", "cat", "dog")
ROWS: dict[Split, int] = {"train": 90, "val": 40, "test": 20}
PROMPTS = ("a {}", "the {}")
SPEC = TeacherSpec(
    name="openclip:Toy@some_tag",
    model="toy",
    weights_sha256="0" * 64,
    outputs=(OutputSpec("image", DIM), OutputSpec("text", DIM), OutputSpec("cls", DIM, "float32")),
    preprocess=Preprocess(8, (8, 8), "bicubic", (0.0,) * 3, (1.0,) * 3),
    normalised=False,
    precision="float32",
    source="tests",
    logit_scale=20.0,
    logit_bias=-1.5,
    tokenizer="words",
)
MakeStore = Callable[..., TeacherView]


def centre(label: int) -> "NDArray[np.float64]":
    return np.random.default_rng([7, label]).normal(size=DIM, scale=2.0)


def sample(shard: str, ordinal: int, *, classes: int = len(CLASSES), noise: float = 1.5) -> tuple[str, int, Any]:
    """Key, label and row: functions of the sample alone."""
    rng = np.random.default_rng([len(shard), sum(map(ord, shard)), ordinal])
    label = int(rng.integers(classes))
    return f"{shard}/{ordinal}", label, (centre(label) + rng.normal(size=DIM, scale=noise)).astype(np.float32)


def _make(
    folder: Path,
    *,
    splits: tuple[Split, ...] = ("train", "val", "test"),
    names: tuple[str, ...] | None = CLASSES,
    labels: Callable[[str, int], int] | None = None,
    noise: float = 1.5,
    spec: TeacherSpec = SPEC,
    capacity: int = 64,
) -> TeacherView:
    shards = tuple(Shard(f"{s}-0.tar", s, 100 * ROWS[s], ROWS[s], f"{ROWS[s]:064x}") for s in splits)
    storage = LocalStorage(folder)
    store = create_store(storage, shards, root=".", classes=names, policy=DecodePolicy(), capacity=capacity)
    writer = PassWriter(store, spec, Pass(("image", "cls"), 8, 1, "x"))
    for slot in store.slots:
        drawn = [sample(slot.shard.url, slot.start + i, noise=noise) for i in range(slot.rows)]
        rows = np.array([row for _, _, row in drawn])
        status = np.full(slot.rows, RowStatus.OK, np.uint8)
        status[3] = RowStatus.DECODE_ERROR
        rows[3] = np.nan
        known = [label for _, label, _ in drawn]
        if labels is not None:
            known = [labels(key, label) for key, label, _ in drawn]
        known[5] = -1
        made = SlotRows(
            keys=np.array([key_hash(key) for key, _, _ in drawn], np.uint64),
            labels=np.array(known, np.int32),
            places=places_of(slot),
            outputs={"image": rows, "cls": rows * np.array([3, 1, 1, 1, 1, 0.1], np.float32) + 5},
            status={"image": status, "cls": status},
            source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
        )
        writer.write(slot, made, {})
    view = open_store(folder).teacher()
    if names is not None:
        texts = np.array([centre(label) for label in range(len(names))], np.float32)
        made_set = ClassSet(
            name="prompts-clip",
            mean=texts / np.float32(7),
            count=np.full(len(names), len(PROMPTS), np.int64),
            spread=np.zeros(len(names), np.float32),
            samples_per_class=len(PROMPTS),
            seed=0,
            commits=prompts_digest(PROMPTS, names),
            prompts=PROMPTS,
        )
        write_class_set(view, "text", made_set)
    return view


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """A function that makes a store; by default with four classes, three splits, bad and unlabelled rows."""
    return lambda name="store.zarr", **options: _make(tmp_path / name, **options)


@pytest.fixture
def view(make_store: MakeStore) -> TeacherView:
    return make_store()


@pytest.fixture
def plain_spec() -> TeacherSpec:
    """A teacher without texts."""
    outputs = (OutputSpec("image", DIM), OutputSpec("cls", DIM, "float32"))
    return replace(SPEC, name="vit:Toy", outputs=outputs, logit_scale=None, logit_bias=None, tokenizer=None)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing here depends on bytes being durable, and small tensors are not worth a second thread."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
