"""A small store with everything in it, as files that every test may forge."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from embedkd.records import OutputSpec, Preprocess, Shard, TeacherSpec
from embedkd.storage import LocalStorage
from embedkd.store import append_shards, average, open_store, seal_store, write_class_set
from embedkd.store.heads import Head, write_head
from tests.store.samples import make
from tests.strangers.forge import Files, content_of, read_folder, resealed, sealed_keys

SPEC = TeacherSpec(
    name="vit:Small@weights",
    model="small",
    weights_sha256="0" * 64,
    outputs=(OutputSpec("cls", 3, "int8"), OutputSpec("logits", 4, "top2")),
    preprocess=Preprocess(256, (224, 224), "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    normalised=False,
    precision="float32",
    source="a folder",
    libraries=(("torch", "2.6"),),
    layers=12,
)
SHARDS = (
    Shard("train-0.tar", "train", 9_216, 5, "a" * 64),  # longer than a slot
    Shard("val-0.tar", "val", 2_048, 0, "b" * 64),
)
LATER = Shard("test-0.tar", "test", 3_072, 2, "c" * 64)


@pytest.fixture(scope="session", autouse=True)
def fast_disk() -> Iterator[None]:
    """Nobody pulls the plug during these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def sound(fast_disk: None, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of a store: two passes, a class set, a head, sealed twice, appended between."""
    folder = tmp_path_factory.mktemp("sound") / "store.zarr"
    store = make(folder, {SPEC: (("cls",), ("cls", "logits"))}, SHARDS, capacity=4, classes=("ant", "bee", "cat"))
    view = store.teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=2, seed=0))
    rng = np.random.default_rng(0)
    weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 3, 3), (3, 3)))
    write_head(view, Head("h", "linear", "cls", weight, bias, True, 2, 0, 0.1, "d" * 64))
    storage = LocalStorage(folder)
    seal_store(storage)
    append_shards(storage, (LATER,))
    seal_store(storage)
    assert open_store(storage).manifest.generation == 1
    return always_the_same(read_folder(folder))


def always_the_same(files: Files) -> Files:
    """Without what differs from run to run, so that a failing example stays one."""
    identity = content_of(files["zarr.json"])["store_uuid"].encode()
    files = {key: data.replace(identity, b"a store") if key.endswith(".json") else data for key, data in files.items()}
    contents = {key: content_of(files[key]) for key in sealed_keys(files)}
    for content in contents.values():
        content |= {"attempt": {"id": "a try"}} if "attempt" in content else {}
        content |= {"created": "today"} if "created" in content else {}
    return resealed(files, contents)
