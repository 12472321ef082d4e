"""``vit:``: vision transformers of transformers (ViT, DINO, DeiT, DINOv2)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedkd.records import OutputSpec, Preprocess
from embedkd.teachers.folders import read_json
from embedkd.teachers.known.model import KnownModel

MODEL_TYPES = ("vit",)


def _google(size: str, patch: int, dim: int, parameters: int, also_in: str | None = None) -> KnownModel:
    """One of CLIP-Embed-KD's four (ImageNet-21k, 224 px)."""
    half = (0.5, 0.5, 0.5)
    return KnownModel(
        source=f"google/vit-{size}-patch{patch}-224-in21k",
        outputs=(OutputSpec("cls", dim),),
        parameters=parameters,
        preprocess=Preprocess((224, 224), (224, 224), "bilinear", half, half, backend="torchvision"),
        licence="Apache-2.0",
        also_in=also_in,
    )


MODELS = {
    "ViT-B-16": _google("base", 16, 768, 85_798_656, also_in="open_clip"),
    "ViT-B-32": _google("base", 32, 768, 87_455_232, also_in="open_clip"),
    "ViT-L-16": _google("large", 16, 1024, 303_301_632, also_in="open_clip"),
    "ViT-L-32": _google("large", 32, 1024, 305_510_400),
}


def recognise(path: Path) -> str | None:
    """The model of a folder that transformers saved, or None where it is none of this family."""
    if not (path / "config.json").is_file():
        return None
    config = read_json(path / "config.json")
    return _name(config) if config.get("model_type") in MODEL_TYPES else None


def _name(config: Mapping[str, Any]) -> str:
    """The paper's name where the architecture is one of its four, else one made of width, depth, patch and image.

    >>> _name({"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 32})
    'ViT-L-32'
    >>> _name({"hidden_size": 64, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8})
    'ViT-w64-d2-p8-i32'
    """
    # A config.json may leave out what equals the defaults of transformers' ViTConfig.
    width, depth = config.get("hidden_size", 768), config.get("num_hidden_layers", 12)
    patch, image = config.get("patch_size", 16), config.get("image_size", 224)
    letter = {(768, 12, 12): "B", (1024, 24, 16): "L"}.get((width, depth, config.get("num_attention_heads", 12)))
    if letter and image == 224 and patch in {16, 32}:
        return f"ViT-{letter}-{patch}"
    side = "x".join(map(str, image)) if isinstance(image, list) else image
    return f"ViT-w{width}-d{depth}-p{patch}-i{side}"
