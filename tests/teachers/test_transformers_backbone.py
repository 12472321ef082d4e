"""What fine-tuning relies on: every parameter in one part, gradients, and a folder that loads again."""

from pathlib import Path
from typing import Any

import pytest
import torch

from embedkd.teachers import Backbone, Teacher, load_teacher
from embedkd.teachers.weights import weights_sha256
from tests.teachers.clipart import pictures
from tests.teachers.saved_transformers import save_kind

VITS = [
    "vit",
    "dino",
    "vit-classifier",
    "deit-classifier",
    "deit-distilled",
    "dinov2",
    "dinov2-classifier",
    "dinov2-registers",
]
PAIRS = ["clip", "siglip", "siglip2"]
# What training reads, where it is not the class token.
FEATURES = dict.fromkeys([*PAIRS, "clip-projection"], "image") | dict.fromkeys(
    ["beit", "siglip-vision", "swin"], "pooled"
)


def loaded(kind: str, folder: Path) -> tuple[Teacher, Backbone, torch.Tensor]:
    """A teacher that was just saved, its inside, and pixels."""
    teacher = load_teacher(str(save_kind(kind, folder)))
    assert teacher.backbone is not None
    return teacher, teacher.backbone, torch.stack([teacher.preprocess(image) for image in pictures()[:3]])


def train(backbone: Backbone, pixels: torch.Tensor) -> list[bool]:
    """One step that moves what learns by 0.1; for each part whether anything in it did."""
    backbone.module.requires_grad_(True)
    loss: Any = backbone.features(pixels).square().mean()
    loss.backward()
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * torch.sign(parameter.grad))
    return [any(parameter.grad is not None for parameter in part) for part in backbone.parts]


@pytest.mark.parametrize("kind", [*VITS, *PAIRS, "clip-projection", "siglip-vision", "beit", "swin", "convnext"])
def test_every_parameter_is_in_one_part(kind: str, tmp_path: Path) -> None:
    teacher, backbone, pixels = loaded(kind, tmp_path)
    numbers = [id(parameter) for part in backbone.parts for parameter in part]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) == {id(parameter) for parameter in backbone.module.parameters()}
    assert len(backbone.parts) == 2 + 2
    assert torch.equal(backbone.features(pixels), teacher.embed(pixels, [backbone.output])[backbone.output])


@pytest.mark.parametrize("kind", [*VITS, *PAIRS, "clip-projection", "siglip-vision", "beit", "swin"])
def test_a_trained_backbone_comes_back(kind: str, tmp_path: Path) -> None:
    teacher, backbone, pixels = loaded(kind, tmp_path / "before")
    assert backbone.output == FEATURES.get(kind, "cls")
    before = teacher.embed(pixels, [backbone.output])[backbone.output]
    assert all(train(backbone, pixels))
    (tmp_path / "after").mkdir()
    backbone.save(tmp_path / "after")
    again = load_teacher(f"{teacher.spec.name.partition(':')[0]}:{tmp_path / 'after'}")
    rows = again.embed(pixels, [backbone.output])[backbone.output]
    assert again.spec.preprocess == teacher.spec.preprocess
    assert not torch.allclose(rows, before, atol=1e-3)
    torch.testing.assert_close(rows, backbone.features(pixels).detach())
    if kind not in PAIRS:
        assert again.spec.weights_sha256 == weights_sha256(backbone.module.state_dict())


@pytest.mark.parametrize("kind", PAIRS)
def test_the_text_tower_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    teacher, backbone, pixels = loaded(kind, tmp_path / "before")
    assert teacher.tokenize is not None
    expected = teacher.embed_text(teacher.tokenize(["a cat"]))
    train(backbone, pixels)
    backbone.save(tmp_path)
    again = load_teacher(f"hf:{tmp_path}")
    assert again.spec.tokenizer == teacher.spec.tokenizer
    assert (again.spec.logit_scale, again.spec.logit_bias) == (teacher.spec.logit_scale, teacher.spec.logit_bias)
    assert again.tokenize is not None
    assert torch.equal(again.embed_text(again.tokenize(["a cat"])), expected)


@pytest.mark.parametrize("kind", ["vit", "dino", "dinov2", "dinov2-registers", "clip", "siglip", "clip-projection"])
def test_an_untrained_backbone_saves_the_very_teacher(kind: str, tmp_path: Path) -> None:
    teacher, backbone, _ = loaded(kind, tmp_path / "before")
    backbone.save(tmp_path)
    assert load_teacher(str(tmp_path)).spec.fingerprint == teacher.spec.fingerprint


def test_a_classifier_stays_behind(tmp_path: Path) -> None:
    teacher, backbone, _ = loaded("vit-classifier", tmp_path / "before")
    backbone.save(tmp_path)
    assert teacher.spec.output("logits")
    assert load_teacher(f"vit:{tmp_path}").spec.output("logits") is None


def test_stages_without_a_number_are_not_trained(tmp_path: Path) -> None:
    assert load_teacher(str(save_kind("resnet", tmp_path))).backbone is None
