"""Shards whose classes are colours, and a toy teacher that hardly sees colours until it is tuned."""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from embedkd.config.tuning import FinetuneConfig
from embedkd.finetune import setting
from embedkd.finetune.tuner import Tuner
from embedkd.records import OutputSpec, Preprocess, Shard, Split, TeacherSpec, blake2b_hex, canonical_json
from embedkd.teachers import Backbone, LoadOptions
from embedkd.teachers.classifier import with_classifier
from embedkd.teachers.runner import TorchTeacher
from embedkd.teachers.weights import weights_sha256

PX, DIM, BLOCKS = 8, 6, 3
CLASSES = ("red", "green", "blue")
COLOURS = np.array([[150, 120, 120], [120, 150, 120], [120, 120, 150]])
ROWS: dict[Split, int] = {"train": 42, "val": 12, "test": 12}
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
ConfigOf = Callable[..., FinetuneConfig]


def picture(split: str, number: int) -> bytes:
    noise = np.random.default_rng([sum(map(ord, split)), number]).integers(-20, 20, (PX + 4, PX, 3))
    file = io.BytesIO()
    Image.fromarray((COLOURS[number % 3] + noise).clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_shard(folder: Path, split: Split) -> Shard:
    path = folder / f"{split}-000000.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(ROWS[split]):
            for suffix, data in {"png": picture(split, number), "cls": b"%d" % (number % 3)}.items():
                member = tarfile.TarInfo(f"{split}-{number:03d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    data = path.read_bytes()
    return Shard(path.name, split, len(data), ROWS[split], blake2b_hex(data))


def write_data(folder: Path, splits: tuple[Split, ...] = ("train", "val", "test"), names: Any = CLASSES) -> Path:
    folder.mkdir(parents=True)
    shards = [asdict(write_shard(folder, split)) for split in splits]
    index = {"format": 1, "classes": names, "shards": shards}
    (folder / "index.json").write_bytes(canonical_json(json.loads(json.dumps(index))))
    return folder


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)
        self.norm = nn.BatchNorm1d(DIM)
        self.dropout = nn.Dropout(0.1)

    def forward(self, rows: Tensor) -> Tensor:
        return rows + torch.relu(self.dropout(self.norm(self.linear(rows))))


class Toy(nn.Module):
    """Stem, blocks and a norm; the stem adds the channels up, so that colours of one brightness look alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, DIM)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(DIM)
        with torch.no_grad():
            self.stem.weight.copy_(self.stem.weight.mean(1, keepdim=True).expand(-1, 3))
            self.stem.weight += 1e-3 * torch.randn(DIM, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        rows: Tensor = self.stem(pixels.mean((2, 3)))
        for block in self.blocks:
            rows = block(rows)
        return self.norm(rows)  # type: ignore[no-any-return]


def to_pixels(image: Image.Image) -> Tensor:
    values = np.asarray(image.resize((PX, PX), Image.Resampling.BICUBIC), np.float32) / 255
    return (torch.from_numpy(values.transpose(2, 0, 1).copy()) - 0.5) / 0.25


def toy_teacher(folder: Path | None = None) -> TorchTeacher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = Toy()
    if folder is not None:
        module.load_state_dict(safetensors.torch.load_file(folder / "toy.safetensors"))
    module.eval().requires_grad_(requires_grad=False)

    def forward(pixels: Tensor, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        return {"pooled": module(pixels)}

    def save(where: Path) -> None:
        safetensors.torch.save_file(module.state_dict(), where / "toy.safetensors")

    parts = [module.stem, *module.blocks, module.norm]
    spec = TeacherSpec(
        name="toy:small",
        model="toy",
        weights_sha256=weights_sha256(module.state_dict()),
        outputs=(OutputSpec("pooled", DIM), OutputSpec("patch_mean", DIM)),
        preprocess=Preprocess((PX, PX), (PX, PX), "bicubic", MEAN, STD),
        normalised=False,
        precision="float32",
        source="tests",
    )
    backbone = Backbone(module, module, "pooled", tuple(tuple(part.parameters()) for part in parts), save)
    teacher = TorchTeacher(spec, to_pixels, forward, torch.device("cpu"), backbone=backbone)
    return teacher if folder is None else with_classifier(teacher, folder)


@pytest.fixture
def load_toy() -> Callable[..., TorchTeacher]:
    """A function that gives the toy teacher, or the one in a folder."""
    return toy_teacher


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled shards of three splits."""
    return write_data(tmp_path_factory.mktemp("colours") / "data")


@pytest.fixture
def make_data() -> Callable[..., Path]:
    """`write_data`, for tests that need other data."""
    return write_data


@pytest.fixture
def config_of(tmp_path: Path) -> ConfigOf:
    """A config of a run that takes a fraction of a second: 2 and 3 epochs of 3 steps."""

    def make(out: str = "tuned", **changes: Any) -> FinetuneConfig:
        settings: dict[str, Any] = {
            "teacher": "toy:small",
            "out": str(tmp_path / out),
            "warmup_epochs": 2,
            "epochs": 3,
            "batch_size": 16,
            "lr": 3e-3,
            "workers": 0,
            "device": "cpu",
        }
        return FinetuneConfig(**(settings | changes))

    return make


@pytest.fixture
def tuners(monkeypatch: pytest.MonkeyPatch) -> list[Tuner]:
    """Every tuner that is built during the test."""
    built: list[Tuner] = []
    build = setting.Setting.tuner

    def remember(self: setting.Setting) -> Tuner:
        built.append(build(self))
        return built[-1]

    monkeypatch.setattr(setting.Setting, "tuner", remember)
    return built


@pytest.fixture(autouse=True)
def toy_family(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The name toy:small loads the toy; one thread; nothing depends on bytes being durable."""

    def load(name: str, options: LoadOptions) -> TorchTeacher:
        assert (name, options.device) == ("toy:small", "cpu")
        return toy_teacher()

    monkeypatch.setattr(setting, "load_teacher", load)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
