"""Makes the golden stores: the same bytes whenever and wherever it runs.

    python -m tests.golden.make FOLDER

Rows come from BLAKE2b digests, so that they depend on no library's random numbers; ids and times are fixed. Beside each
store go ``NAME.npz`` with what zarr-python reads in it, and ``NAME-said.npz`` with what the teachers said (before rows
were lost): ``<teacher>/<output>`` [n, D].
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from embedkd.records import DecodePolicy, OutputSpec, Preprocess, RowStatus, Shard, TeacherSpec, blake2b_hex, key_hash
from embedkd.storage import LocalStorage
from embedkd.store import (
    ClassSet,
    EmbeddingStore,
    Pass,
    PassWriter,
    Slot,
    SlotRows,
    append_shards,
    average,
    create_store,
    open_store,
    seal_store,
    write_class_set,
)
from embedkd.store.classes import METHODS, prompts_digest
from embedkd.store.heads import Head, write_head
from tests.golden.check_any_zarr import read_arrays

CREATED = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
SAMPLE_BYTES = 2_048  # of a tar, a sample
PREPROCESS = Preprocess(256, (224, 224), "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Golden:
    """What a golden store is made of.

    Attributes:
        name: Of its folder, without ``.zarr``.
        uuid: Its id.
        capacity: Rows a slot.
        shards: With which it begins.
        appended: Shards that come later.
        classes: Names; None where it has none.
        policy: How images were decoded.
        passes: Teachers, each with the outputs of its passes.
        labels: How many classes labels go round; 0 where no sample has one.
    """

    name: str
    uuid: str
    capacity: int
    shards: tuple[Shard, ...]
    appended: tuple[Shard, ...]
    classes: tuple[str, ...] | None
    policy: DecodePolicy
    passes: tuple[tuple[TeacherSpec, tuple[tuple[str, ...], ...]], ...]
    labels: int


def shard(url: str, split: Any, rows: int) -> Shard:
    """A tar that is nowhere."""
    return Shard(url, split, SAMPLE_BYTES * rows + 1_024, rows, blake2b_hex(url.encode()))


def teacher(name: str, outputs: Sequence[OutputSpec], **facts: Any) -> TeacherSpec:
    """A teacher that is nowhere."""
    settings: dict[str, Any] = {"normalised": False, "precision": "float32", "source": "tests/golden/make.py"}
    weights = hashlib.sha256(name.encode()).hexdigest()
    return TeacherSpec(name, f"golden {name}", weights, tuple(outputs), PREPROCESS, **(settings | facts))


PLAIN = Golden(
    name="plain",
    uuid="00000000-0000-4000-8000-000000000001",
    capacity=8,
    shards=(shard("train-000000.tar", "train", 8), shard("val-000000.tar", "val", 5)),
    appended=(),
    classes=None,
    policy=DecodePolicy(),
    passes=((teacher("vit:plain", [OutputSpec("cls", 16)]), (("cls",),)),),
    labels=0,
)

DENSE = teacher(
    "openclip:ViT-B-32/größe",
    [
        OutputSpec("cls", 12),
        OutputSpec("pooled", 6, "float32"),
        OutputSpec("image", 10, "bfloat16"),
        OutputSpec("text", 10, "int8"),
        OutputSpec("logits", 20, "top4"),
    ],
    logit_scale=100.0,
    logit_bias=-10.5,
    layers=3,
    tokenizer="golden, 77 tokens",
    licence="CC0-1.0",
    revision="0123abc",
    libraries=(("torch", "2.15"), ("open_clip", "3.3")),
)
SECOND = teacher(
    "vit:second",
    [OutputSpec("cls", 8, "int8"), OutputSpec("logits", 9)],
    normalised=True,
    random_weights=True,
    precision="bfloat16",
    derived_from="vit:first@0123",
)
FULL = Golden(
    name="full",
    uuid="00000000-0000-4000-8000-000000000002",
    capacity=8,
    shards=(
        shard("train/多-000000.tar", "train", 13),  # two slots
        shard("val/empty.tar", "val", 0),
    ),
    appended=(shard("test/später.tar", "test", 7),),
    classes=("ant", "Bär", "猫 & <cat>", "nobody"),
    policy=DecodePolicy((12, 34, 56), exif=False, max_pixels=1_000_000),
    passes=((DENSE, (("cls", "cls@-1", "image", "text"), ("cls", "pooled", "logits"))), (SECOND, (("cls",),))),
    labels=3,
)
STORES = (PLAIN, FULL)


def key_of(slot: Slot, row: int) -> str:
    """Key of a sample."""
    return f"{slot.shard.url}/ключ {slot.start + row}"


def said_of(spec: TeacherSpec, output: str, slot: Slot) -> NDArray[np.float32]:
    """What a teacher says: multiples of 2^-12 from -8 to 8, and one value that float16 cannot hold; [n, D]."""
    found = spec.output(output)
    assert found is not None
    rows = np.empty((slot.rows, found.dim), np.float32)
    for row in range(slot.rows):
        drawn = hashlib.shake_128(f"{spec.name} {output} {key_of(slot, row)}".encode()).digest(2 * found.dim)
        rows[row] = np.frombuffer(drawn, "<i2").astype(np.float32) / 4_096
    if found.encoding == "float16":
        rows[3::7, 1] = 1e6
    return rows


def status_of(slot: Slot, output: str) -> NDArray[np.uint8]:
    """Every reason there is for a row to be missing; [n]."""
    status = np.full(slot.rows, RowStatus.OK, np.uint8)
    status[1::6] = RowStatus.DECODE_ERROR
    status[2::8] = RowStatus.FIELD_MISSING if output == "text" else RowStatus.OK
    status[5::8] = RowStatus.DROPPED if slot.index == 0 else RowStatus.OK
    return status


def rows_of(golden: Golden, spec: TeacherSpec, outputs: Sequence[str], slot: Slot) -> SlotRows:
    """What a writer puts for one slot."""
    places = np.empty((slot.rows, 3), np.uint64)
    places[:, 0], places[:, 1] = (slot.start + np.arange(slot.rows)) * SAMPLE_BYTES, SAMPLE_BYTES
    places[:, 2] = [key_hash(f"crc32c {key_of(slot, row)}") % (1 << 32) for row in range(slot.rows)]
    labels = np.full(slot.rows, -1, np.int32)
    if golden.labels:
        labels[:] = (slot.start + np.arange(slot.rows)) % golden.labels
        labels[4::9] = -1
    plain = golden.labels == 0
    status = {name: np.ones(slot.rows, np.uint8) if plain else status_of(slot, name) for name in outputs}
    return SlotRows(
        keys=np.array([key_hash(key_of(slot, row)) for row in range(slot.rows)], np.uint64),
        labels=labels,
        places=places,
        outputs={name: said_of(spec, name, slot) for name in outputs},
        status=status,
        source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
    )


def make(golden: Golden, folder: Path) -> Path:
    """Make one golden store and what it is compared with; returns the store's folder."""
    path = folder / f"{golden.name}.zarr"
    storage = LocalStorage(path)
    with _fixed(golden.uuid):
        create_store(
            storage,
            golden.shards,
            root="data:golden",
            classes=golden.classes,
            policy=golden.policy,
            capacity=golden.capacity,
        )
    _write(golden, open_store(path))
    if golden.appended:
        _add_sets(open_store(path))
        seal_store(storage)
        append_shards(storage, golden.appended)
        _write(golden, open_store(path))
        _add_variants(open_store(path))
        _add_heads(open_store(path))
        seal_store(storage)
    _expect(golden, path)
    return path


def _write(golden: Golden, store: EmbeddingStore) -> None:
    for spec, passes in golden.passes:
        for outputs in passes:
            writer = PassWriter(store, spec, Pass(spec.ordered(outputs), 8, 1, "no machine"))
            for slot in store.slots:
                if not writer.is_committed(slot):
                    writer.write(slot, rows_of(golden, spec, outputs, slot), {"id": "golden", "system": "none"})


def _add_sets(store: EmbeddingStore) -> None:
    view = store.teacher(DENSE.name)
    for output in ("cls", "text"):
        write_class_set(view, output, average(view, output, samples_per_class=2, seed=-7))


def _add_variants(store: EmbeddingStore) -> None:
    view = store.teacher(DENSE.name)
    for method in METHODS[1:]:
        made = average(view, "logits", samples_per_class=9, seed=1, method=method, trim=0.4)
        write_class_set(view, "logits", made)


def _add_heads(store: EmbeddingStore) -> None:
    view, classes = store.teacher(DENSE.name), store.class_names or ()
    for name, folds in (("linear", 2), ("zero-shot", 0)):
        shape = (folds + 1 if folds else 1, len(classes), 10)
        weight = ((np.arange(np.prod(shape)).reshape(shape) - 60) / 64).astype(np.float32)
        head = Head(
            name=f"golden-{name}",
            kind=name,
            output="image",
            weight=weight,
            bias=weight[:, :, 0].copy(),
            normalise=not folds,
            folds=folds,
            seed=3,
            l2=0.25 if folds else None,
            made_from=blake2b_hex(name.encode()),
        )
        write_head(view, head)
    prompts = ("a photo of a {}.", "ein Bild: {}")
    means = (np.arange(10) + np.arange(len(classes))[:, None]).astype(np.float32) / np.float32(8)
    texts = ClassSet(
        "texts",
        means,
        np.full(len(classes), len(prompts), np.int64),
        np.full(len(classes), 0.5, np.float32),
        len(prompts),
        0,
        prompts_digest(prompts, classes),
        prompts,
    )
    write_class_set(view, "text", texts)


def _expect(golden: Golden, path: Path) -> None:
    """Write down what zarr reads, and what the teachers said."""
    slots = open_store(path).slots
    said = {
        f"{spec.teacher_id}/{output}": np.concatenate([said_of(spec, output, slot) for slot in slots])
        for spec, passes in golden.passes
        for output in sorted({name for outputs in passes for name in outputs})
    }
    arrays: dict[str, Any] = dict(read_arrays(path))
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    np.savez_compressed(path.with_name(f"{golden.name}-said.npz"), **cast("dict[str, Any]", said))


@contextmanager
def _fixed(uuid: str) -> Iterator[None]:
    """Within it a new store gets this id, and was made at CREATED."""
    with patch("embedkd.store.creation.datetime") as clock, patch("uuid.uuid4", return_value=UUID(uuid)):
        clock.now.return_value = CREATED
        yield


def main() -> int:
    """Make all that are not there."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    folder = Path(sys.argv[1])
    for golden in STORES:
        if (folder / f"{golden.name}.zarr").exists():
            print(f"{golden.name} is there and stays as it is")
            continue
        print(make(golden, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
