"""``vit:``: vision transformers of transformers (ViT, DINO, DeiT, DINOv2)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedkd.records import OutputSpec
from embedkd.teachers.folders import read_json
from embedkd.teachers.known.model import KnownModel
from embedkd.teachers.transformers_published import (
    BICUBIC,
    BILINEAR,
    HALF,
    IMAGENET,
    Published,
    processor_document,
    square,
)

MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers")
# Letters of the papers: width, depth, heads.
_SIZES = {"T": (192, 12, 3), "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "G": (1536, 40, 24)}
_LETTERS = {shape: letter for letter, shape in _SIZES.items()}
_FAMILIES = {"vit": "ViT", "deit": "DeiT", "dinov2": "DINOv2", "dinov2_with_registers": "DINOv2-reg"}


def _config(kind: str, letter: str, patch: int, image: int = 224, **more: object) -> dict[str, Any]:
    width, depth, heads = _SIZES[letter]
    shape = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    shape |= {} if kind == "dinov2" else {"intermediate_size": 4 * width}
    return {"model_type": kind, "patch_size": patch, "image_size": image} | shape | more


def _classifier(architecture: str) -> dict[str, Any]:
    """What marks one of ImageNet's classifiers in a config.json."""
    return {"architectures": [architecture], "id2label": {str(label): f"LABEL_{label}" for label in range(1000)}}


_SQUARE_224 = processor_document("ViTImageProcessor", HALF, BILINEAR, square(224))
_DINO = processor_document("ViTImageProcessor", IMAGENET, BILINEAR, square(224))
_DINOV2 = processor_document("BitImageProcessor", IMAGENET, BICUBIC, {"shortest_edge": 256}, 224)
_DEIT = processor_document("DeiTImageProcessor", IMAGENET, BICUBIC, square(256), 224)
_VIT_CLASSIFIER = _classifier("ViTForImageClassification")
_WITH_TEACHER = _classifier("DeiTForImageClassificationWithTeacher")

PUBLISHED = {
    **{f"ViT-{name[0]}-{name[1:]}": Published(_config("vit", name[0], int(name[1:])), _SQUARE_224)
       for name in ("B16", "B32", "L16", "L32")},
    **{f"ViT-{name[0]}-{name[1:]}.dino": Published(_config("vit", name[0], int(name[1:])), _DINO)
       for name in ("S16", "S8", "B16", "B8")},
    **{f"ViT-{letter}-16.deit": Published(_config("vit", letter, 16, **_VIT_CLASSIFIER), _DEIT) for letter in "TSB"},
    **{f"DeiT-{letter}-16": Published(_config("deit", letter, 16, **_WITH_TEACHER), _DEIT) for letter in "TSB"},
    **{f"DINOv2-{letter}-14": Published(_config("dinov2", letter, 14, 518, use_swiglu_ffn=letter == "G"), _DINOV2)
       for letter in "SBLG"},
}  # fmt: skip


def _known(model: str, source: str, parameters: int, *offer: str, also_in: str | None = None) -> KnownModel:
    published = PUBLISHED[model]
    width = int(published.config["hidden_size"])
    return KnownModel(
        source=source,
        outputs=tuple(OutputSpec(output, 1000 if output == "logits" else width) for output in offer),
        parameters=parameters,
        preprocess=published.preprocess,
        licence="Apache-2.0",
        also_in=also_in,
    )


_POOLED = ("cls", "pooled", "patch_mean")
_BARE = ("cls", "patch_mean")
_CLASSIFIER = ("cls", "logits", "patch_mean")

# CLIP-Embed-KD's four (ImageNet-21k) come first. A name behind a dot tells apart what has one architecture.
MODELS = {
    "ViT-B-16": _known("ViT-B-16", "google/vit-base-patch16-224-in21k", 86_389_248, *_POOLED, also_in="open_clip"),
    "ViT-B-32": _known("ViT-B-32", "google/vit-base-patch32-224-in21k", 88_045_824, *_POOLED, also_in="open_clip"),
    "ViT-L-16": _known("ViT-L-16", "google/vit-large-patch16-224-in21k", 304_351_232, *_POOLED, also_in="open_clip"),
    "ViT-L-32": _known("ViT-L-32", "google/vit-large-patch32-224-in21k", 306_560_000, *_POOLED),
    "ViT-S-16.dino": _known("ViT-S-16.dino", "facebook/dino-vits16", 21_665_664, *_BARE),
    "ViT-S-8.dino": _known("ViT-S-8.dino", "facebook/dino-vits8", 21_670_272, *_BARE),
    "ViT-B-16.dino": _known("ViT-B-16.dino", "facebook/dino-vitb16", 85_798_656, *_BARE),
    "ViT-B-8.dino": _known("ViT-B-8.dino", "facebook/dino-vitb8", 85_807_872, *_BARE),
    "ViT-T-16.deit": _known("ViT-T-16.deit", "facebook/deit-tiny-patch16-224", 5_717_416, *_CLASSIFIER),
    "ViT-S-16.deit": _known("ViT-S-16.deit", "facebook/deit-small-patch16-224", 22_050_664, *_CLASSIFIER),
    "ViT-B-16.deit": _known("ViT-B-16.deit", "facebook/deit-base-patch16-224", 86_567_656, *_CLASSIFIER),
    "DeiT-T-16": _known("DeiT-T-16", "facebook/deit-tiny-distilled-patch16-224", 5_910_800, *_CLASSIFIER),
    "DeiT-S-16": _known("DeiT-S-16", "facebook/deit-small-distilled-patch16-224", 22_436_432, *_CLASSIFIER),
    "DeiT-B-16": _known("DeiT-B-16", "facebook/deit-base-distilled-patch16-224", 87_338_192, *_CLASSIFIER),
    "DINOv2-S-14": _known("DINOv2-S-14", "facebook/dinov2-small", 22_056_576, *_BARE),
    "DINOv2-B-14": _known("DINOv2-B-14", "facebook/dinov2-base", 86_580_480, *_BARE),
    "DINOv2-L-14": _known("DINOv2-L-14", "facebook/dinov2-large", 304_368_640, *_BARE),
    "DINOv2-G-14": _known("DINOv2-G-14", "facebook/dinov2-giant", 1_136_480_768, *_BARE),
}


def recognise(path: Path) -> str | None:
    """The model of a folder that transformers saved, or None where it is none of this family."""
    if not (path / "config.json").is_file():
        return None
    config = read_json(path / "config.json")
    return _name(config) if config.get("model_type") in MODEL_TYPES else None


def _name(config: Mapping[str, Any]) -> str:
    """A paper's name where the architecture is one of theirs, else one made of width, depth, patch and image.

    >>> _name({"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 32})
    'ViT-L-32'
    >>> _name({"model_type": "dinov2", "image_size": 518})
    'DINOv2-B-14'
    >>> _name({"hidden_size": 64, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8})
    'ViT-w64-d2-p8-i32'
    """
    kind = str(config.get("model_type", "vit"))
    family, published_px = _FAMILIES[kind], 518 if kind.startswith("dinov2") else 224
    # A config.json may leave out what equals the defaults of transformers' own config.
    width, depth = config.get("hidden_size", 768), config.get("num_hidden_layers", 12)
    patch, image = config.get("patch_size", 14 if kind.startswith("dinov2") else 16), config.get("image_size", 224)
    letter = _letter((width, depth, config.get("num_attention_heads", 12)))
    if letter and image == published_px and isinstance(patch, int):
        return f"{family}-{letter}-{patch}"
    side = "x".join(map(str, image)) if isinstance(image, list) else image
    return f"{family}-w{width}-d{depth}-p{patch}-i{side}"


def _letter(shape: tuple[object, ...]) -> str | None:
    return next((letter for known, letter in _LETTERS.items() if known == shape), None)
