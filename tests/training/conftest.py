"""A data set and a store that take milliseconds: colours as classes, and a teacher that says the mean colour."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from embedkd.config import Config, load_config
from embedkd.records import (
    DecodePolicy,
    OutputSpec,
    Preprocess,
    RowStatus,
    Shard,
    Split,
    TeacherSpec,
    blake2b_hex,
    canonical_json,
    key_hash,
)
from embedkd.rundir import RunDir, read_json
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, SlotRows, average, create_store, open_store, write_class_set
from tests.tiny import places_in

PX = 8
COLOURS = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220]])
CLASSES = ("red", "green", "blue")
ROWS: dict[Split, int] = {"train": 22, "val": 9, "test": 9}
EVERY_LOSS = "losses={cross_entropy=0.5, class_contrastive=0.5, sample_contrastive=0.1, mse=0.1, cosine=0.1}"
SPEC = TeacherSpec(
    name="test:mean-colour",
    model="mean-colour",
    weights_sha256="0" * 64,
    outputs=(OutputSpec("pooled", 5), OutputSpec("logits", 3)),
    preprocess=Preprocess(PX, (PX, PX), "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    normalised=False,
    precision="float32",
    source="tests",
)


def picture(split: str, number: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng([sum(map(ord, split)), number]).integers(-40, 40, (PX, PX, 3))
    pixels: NDArray[np.uint8] = (COLOURS[number % 3] + noise).clip(0, 255).astype(np.uint8)
    return pixels


def says(pixels: NDArray[np.uint8]) -> list[float]:
    colour = pixels.reshape(-1, 3).mean(axis=0) / 255
    return [*colour, float(pixels.std()) / 255, 1.0]


def write_shard(folder: Path, split: Split, *, labelled: bool = True) -> Shard:
    path = folder / f"{split}-000000.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(ROWS[split]):
            png = io.BytesIO()
            Image.fromarray(picture(split, number)).save(png, "PNG")
            fields = {"png": png.getvalue()} | ({"cls": b"%d" % (number % 3)} if labelled else {})
            for suffix, data in fields.items():
                member = tarfile.TarInfo(f"{split}-{number:03d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    data = path.read_bytes()
    return Shard(path.name, split, len(data), ROWS[split], blake2b_hex(data))


def write_data(
    folder: Path, splits: Sequence[Split] = ("train", "val", "test"), *, labelled: bool = True
) -> tuple[Shard, ...]:
    folder.mkdir(parents=True)
    shards = tuple(write_shard(folder, split, labelled=labelled) for split in splits)
    index = {"format": 1, "classes": CLASSES, "shards": [asdict(shard) for shard in shards]}
    (folder / "index.json").write_bytes(canonical_json(json.loads(json.dumps(index))))
    return shards


def write_store(
    folder: Path,
    shards: tuple[Shard, ...],
    *,
    classes: tuple[str, ...] | None = CLASSES,
    bad: Sequence[int] = (),
    labelled: bool = True,
    unlabelled: Sequence[int] = (),
    partly: Sequence[Split] = ("train",),
    mean_of: Sequence[str] = ("pooled",),
    spec: TeacherSpec = SPEC,
    outputs: Sequence[str] = ("pooled", "logits"),
) -> Path:
    """A store beside a data folder ``data``; training samples of ``bad`` numbers could not be decoded.

    Those of ``unlabelled`` numbers in the splits ``partly`` have no label.
    """
    path = folder / "store.zarr"
    store = create_store(LocalStorage(path), shards, root="../data", classes=classes, policy=DecodePolicy())
    writer = PassWriter(store, spec, Pass(tuple(outputs), 8, 1, "none"))
    for slot in store.slots:
        split, numbers = slot.shard.split, range(slot.rows)
        hidden = (unlabelled if split in partly else ()) if labelled else numbers
        lost = [n for n in numbers if split == "train" and n in bad]
        rows = np.array([says(picture(split, n)) for n in numbers], dtype=np.float32)
        rows[lost] = np.nan
        status = np.full(slot.rows, RowStatus.OK, dtype=np.uint8)
        status[lost] = RowStatus.DECODE_ERROR
        logits = spec.output("logits")
        made = SlotRows(
            keys=np.array([key_hash(f"{split}-{n:03d}") for n in numbers], dtype=np.uint64),
            labels=np.array([-1 if n in hidden else n % 3 for n in numbers], dtype=np.int32),
            places=places_in(folder / "data" / slot.shard.url),
            outputs={o: rows[:, : 3 if logits is None else logits.dim] if o == "logits" else rows for o in outputs},
            status=dict.fromkeys(outputs, status),
            source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
        )
        writer.write(slot, made, {})
    view = store.teacher()
    for output in mean_of:
        write_class_set(view, output, average(view, output, samples_per_class=100, seed=0))
    return path


def add_teacher(store: Path, spec: TeacherSpec, *, shift: float, outputs: Sequence[str] = ("pooled",)) -> None:
    """One more teacher of a store, or a view of one: it says what the first says, and so much more."""
    opened = open_store(store)
    plain, writer = opened.teacher(SPEC.name), PassWriter(opened, spec, Pass(tuple(outputs), 8, 1, "none"))
    for slot in opened.slots:
        reads = {output: plain.read(slot, output) for output in outputs}
        first = reads[outputs[0]]
        made = SlotRows(
            keys=first.keys,
            labels=first.labels,
            places=first.places,
            outputs={output: read.rows.astype(np.float32) + shift for output, read in reads.items()},
            status={output: read.status for output, read in reads.items()},
            source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
        )
        writer.write(slot, made, {})


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three splits with an index, and ``store.zarr`` beside them."""
    folder = tmp_path_factory.mktemp("colours")
    write_store(folder, write_data(folder / "data"))
    return folder


@pytest.fixture
def make_data() -> Callable[..., tuple[Shard, ...]]:
    """`write_data`, for tests that need other data."""
    return write_data


@pytest.fixture
def make_store() -> Callable[..., Path]:
    """`write_store`, for tests that need another store."""
    return write_store


@pytest.fixture(scope="session")
def config_in(data: Path) -> Callable[..., Config]:
    """A config of a run that takes a quarter of a second: 3 epochs of 3 steps."""

    def make(folder: Path, *sets: str) -> Config:
        return load_config(
            values={"recipe": "clip-embed-kd"},
            sets=[
                f"train.targets={data / 'store.zarr'}",
                f"train.out={folder}",
                "train.epochs=3",
                "train.global_batch_size=8",
                "train.workers=0",
                "train.device=cpu",
                "student.image_px=8",
                "student.patch_px=4",
                "student.drop_path=0.2",
                "augment.crop_padding_px=1",
                *sets,
            ],
        )

    return make


@pytest.fixture
def config_of(config_in: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """The same, in a folder of this test."""

    def make(*sets: str, out: str = "run") -> Config:
        return config_in(tmp_path / out, *sets)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are not worth a second thread, least of all when tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def traces(config: Config) -> tuple[bytes, list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Everything that a run leaves, but for times and memory."""
    run = RunDir(Path(config.train.out))
    metrics = [{k: v for k, v in line.items() if k != "elapsed_s"} for line in run.read_metrics()]
    result = {k: v for k, v in (run.read_result() or {}).items() if k not in {"elapsed_s", "memory"}}
    return run.weights.read_bytes(), metrics, read_json(run.student), result
