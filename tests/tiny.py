"""Tars, images and a teacher that take microseconds, for tests of everything that carries them."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from embedkd.errors import TeacherError
from embedkd.records import OutputSpec, Preprocess, TeacherSpec
from embedkd.sources.index import index_shard
from embedkd.sources.roots import ShardSource
from embedkd.storage import LocalStorage
from embedkd.teachers import Backbone

PX = 6
CLASSES = 3
SPEC = TeacherSpec(
    name="packaged:efficientnet-lite0",  # a name that the catalogue knows
    model="tiny",
    weights_sha256="0" * 64,
    outputs=(OutputSpec("cls", 5), OutputSpec("pooled", 3, "float32")),
    preprocess=Preprocess(PX, (PX, PX), "nearest", (0.0,) * 3, (1.0,) * 3),
    normalised=False,
    precision="float32",
    source="tests",
)
TEXT_SPEC = replace(
    SPEC,
    name="openclip:ViT-B-32",
    model="tiny pair",
    outputs=(OutputSpec("image", 5), OutputSpec("text", 5)),
    tokenizer="letters",
)
OUTPUTS = tuple(output.name for output in SPEC.outputs)


class TinyTeacher:
    """Says five of the pixels (``cls``) and the brightest ones (``pooled``): the same bits in any batch."""

    spec = SPEC

    def __init__(self) -> None:
        self.batches: list[int] = []

    tokenize: Callable[[Sequence[str]], torch.Tensor] | None = None
    backbone: Backbone | None = None

    @property
    def preprocess(self) -> Callable[[Image.Image], torch.Tensor]:
        return to_pixels

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        self.batches.append(len(pixels))
        said = {"cls": 3 * pixels.flatten(1)[:, 7:12] - 1, "pooled": pixels.amax((2, 3))}
        return {name: said[name] for name in outputs}

    def embed_text(self, tokens: torch.Tensor) -> torch.Tensor:
        raise TeacherError(f"{self.spec.name} reads no text, got {list(tokens.shape)}")

    def compiled(self) -> "TinyTeacher":
        return self


def to_pixels(image: Image.Image) -> torch.Tensor:
    values = np.asarray(image.resize((PX, PX), Image.Resampling.NEAREST), np.float32) / 255
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def letters(captions: Sequence[str]) -> torch.Tensor:
    """How often each of five letters occurs: int64 [N, 5]."""
    counts = [[caption.count(letter) for letter in "ainrt"] for caption in captions]
    return torch.tensor(counts, dtype=torch.int64).reshape(len(captions), 5)


class TextTeacher(TinyTeacher):
    """Says five of the pixels, negated (``image``), and counts letters of captions (``text``)."""

    spec = TEXT_SPEC
    tokenize = staticmethod(letters)

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[int] = []

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        assert set(outputs) <= {"image"}
        return {"image": -super().embed(pixels, ["cls"])["cls"]}

    def embed_text(self, tokens: torch.Tensor) -> torch.Tensor:
        self.texts.append(len(tokens))
        return tokens.float().sqrt()


def augmented(image: Image.Image, seed: int) -> torch.Tensor:
    """The pixels, with a first one that tells the seed."""
    pixels = to_pixels(image)
    pixels[0, 0, 0] = seed % 4096
    return pixels


def pixels_of(key: str) -> NDArray[np.uint8]:
    return np.random.default_rng(list(key.encode())).integers(0, 256, (PX, PX, 3), np.uint8)


def picture(key: str) -> bytes:
    """A PNG that is a function of the key."""
    file = io.BytesIO()
    Image.fromarray(pixels_of(key)).save(file, "PNG")
    return file.getvalue()


def said_of(key: str, output: str) -> NDArray[np.float32]:
    """What the teacher says of `picture`, row by row."""
    pixels = torch.from_numpy(pixels_of(key).astype(np.float32) / 255).permute(2, 0, 1)[None]
    row: NDArray[np.float32] = TinyTeacher().embed(pixels, [output])[output][0].numpy()
    return row


def sample(key: str, label: int | None) -> list[tuple[str, bytes]]:
    """Members of one sample."""
    members = [(f"{key}.png", picture(key)), (f"{key}.txt", key.encode())]
    return members if label is None else [*members, (f"{key}.cls", str(label).encode())]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of plain files; the bytes are a function of the members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_at(path: Path) -> ShardSource:
    """A tar on the disk."""
    return ShardSource(LocalStorage(path.parent), path.name)


def write_shard(path: Path, rows: int, *, labels: bool = True) -> list[str]:
    """A tar of so many samples; their keys."""
    keys = [f"{path.stem}/{number:03d}" for number in range(rows)]
    write_tar(path, [m for n, key in enumerate(keys) for m in sample(key, n % CLASSES if labels else None)])
    return keys


def places_in(path: Path, first: int = 0, count: int | None = None) -> NDArray[np.uint64]:
    """Places of some samples of a tar: u64 [n, 3]."""
    found = index_shard(tar_at(path)).samples[first : None if count is None else first + count]
    return np.array([sample.place for sample in found], np.uint64).reshape(-1, 3)


def lasting(store: Path) -> dict[str, bytes | dict[str, object]]:
    """Everything in a store that must not depend on how it was written: array objects, array metadata, and documents
    without what tells one run from another."""
    found: dict[str, bytes | dict[str, object]] = {}
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        name, data = path.relative_to(store).as_posix(), path.read_bytes()
        found[name] = data if "/c/" in name else _without_attempt(json.loads(data))
    return found


def _without_attempt(document: dict[str, object]) -> dict[str, object]:
    attributes = document.get("attributes")
    inner = attributes.get("embedkd", {}) if isinstance(attributes, dict) else {}
    for facts in (document, inner):
        for name in ("attempt", "digest", "store_uuid", "created"):
            facts.pop(name, None)
    return document
