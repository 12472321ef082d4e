"""A teacher of any name, whose rows say where an image has which colours; it takes microseconds."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from PIL import Image

import embedkd.teachers
from embedkd.records import OutputSpec, Preprocess, TeacherSpec, blake2b_hex
from embedkd.teachers import Backbone, LoadOptions, resolve_name
from tests.tiny import letters

PX = 8
# By family, as the real ones have them, but narrow.
OUTPUTS = {
    "vit": (OutputSpec("cls", 12),),
    "openclip": (OutputSpec("image", 10), OutputSpec("text", 10)),
    "packaged": (OutputSpec("pooled", 9), OutputSpec("logits", 7)),
}


class AnyTeacher:
    """Random combinations of the colours of an image's quarters, drawn by the teacher's name.

    Args:
        name: Full name, family first.
    """

    backbone: Backbone | None = None
    preprocess: Callable[[Image.Image], torch.Tensor]
    tokenize: Callable[[Sequence[str]], torch.Tensor] | None

    def __init__(self, name: str) -> None:
        reads = name.startswith("openclip:")
        self.preprocess, self.tokenize = to_pixels, letters if reads else None
        self.spec = TeacherSpec(
            name=name,
            model="colours",
            weights_sha256=blake2b_hex(name.encode()),
            outputs=OUTPUTS[name.split(":")[0]],
            preprocess=Preprocess(PX, (PX, PX), "bicubic", (0.0,) * 3, (1.0,) * 3),
            normalised=False,
            precision="float32",
            source="tests",
            tokenizer="letters" if reads else None,
        )

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        """Rows of a batch, one after the other: no value depends on its neighbours."""
        quarters = torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)
        said = {}
        for name in outputs:
            seed = list(f"{self.spec.name} {name}".encode())
            spec = self.spec.output(name)
            assert spec is not None
            mixed = torch.from_numpy(np.random.default_rng(seed).normal(size=(12, spec.dim)).astype(np.float32))
            said[name] = torch.stack([row @ mixed for row in quarters]) if len(pixels) else mixed[:0]
        return said

    def embed_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """The letters of a text, counted."""
        assert self.tokenize is not None
        return torch.cat([tokens.float().sqrt(), tokens.float()], dim=1)

    def compiled(self) -> "AnyTeacher":
        return self


def to_pixels(image: Image.Image) -> torch.Tensor:
    """Float32 [3, 8, 8] from 0 to 1."""
    values = np.asarray(image.resize((PX, PX), Image.Resampling.BICUBIC), np.float32) / 255
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def load_any(name: str, options: LoadOptions | None = None) -> AnyTeacher:
    """In place of `embedkd.teachers.load_teacher`."""
    return AnyTeacher(resolve_name(name).name)


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Let every teacher that is loaded from here on be one of these."""
    patch.setattr(embedkd.teachers, "load_teacher", load_any)
