"""The store of the examples in docstrings and in docs/library.md."""

from pathlib import Path

import numpy as np

from embedkd.records import DecodePolicy, OutputSpec, Preprocess, Shard, TeacherSpec, key_hash
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, Slot, SlotRows, average, create_store, open_store, write_class_set
from tests.store.samples import places_of

CLASSES = ("ant", "bee", "cat")
SHARDS = (
    Shard("train-000000.tar", "train", 24_576, 12, "a" * 64),  # longer than a slot
    Shard("train-000001.tar", "train", 16_384, 8, "b" * 64),
    Shard("val-000000.tar", "val", 8_192, 4, "c" * 64),
)
SPEC = TeacherSpec(
    name="vit:Small",
    model="small",
    weights_sha256="0" * 64,
    outputs=(OutputSpec("cls", 6), OutputSpec("logits", 4)),
    preprocess=Preprocess(224, (224, 224), "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    normalised=False,
    precision="float32",
    source="a folder",
)


def make_example(folder: Path) -> None:
    """A finished store; samples are called by class and number ("cat_05"), the fifth one has a broken image."""
    store = create_store(
        LocalStorage(folder), SHARDS, root="data:clipart", classes=CLASSES, policy=DecodePolicy(), capacity=8
    )
    writer, first = PassWriter(store, SPEC, Pass(("cls", "logits"), 8, 1, "a processor")), 0
    for slot in store.slots:
        writer.write(slot, _rows(slot, np.arange(first, first + slot.rows)), {})
        first += slot.rows
    view = open_store(folder).teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=100, seed=0))


def _rows(slot: Slot, numbers: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> SlotRows:
    status = np.where(numbers == 4, 2, 1).astype(np.uint8)
    said = {o.name: np.sin(np.add.outer(numbers, np.arange(o.dim))).astype(np.float32) for o in SPEC.outputs}
    for rows in said.values():
        rows[status != 1] = np.nan
    return SlotRows(
        keys=np.array([key_hash(f"{CLASSES[n % 3]}_{n:02}") for n in numbers.tolist()], np.uint64),
        labels=(numbers % 3).astype(np.int32),
        places=places_of(slot),
        outputs=said,
        status=dict.fromkeys(said, status),
        source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
    )
