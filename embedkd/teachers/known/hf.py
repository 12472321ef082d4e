"""``hf:``: CLIP, SigLIP and other vision towers of transformers, by repository or folder."""

from pathlib import Path
from typing import Any

from embedkd.records import OutputSpec
from embedkd.teachers.folders import read_json
from embedkd.teachers.known.model import KnownModel
from embedkd.teachers.transformers_published import BICUBIC, HALF, OPENAI, Published, processor_document, square


def _clip(vision: tuple[int, int, int], patch: int, image: int, text: tuple[int, int, int], joint: int) -> Published:
    """OpenAI's; a shape is width, depth, heads."""
    config = {
        "model_type": "clip",
        "projection_dim": joint,
        "vision_config": _tower(*vision) | {"patch_size": patch, "image_size": image, "projection_dim": joint},
        "text_config": _tower(*text) | {"projection_dim": joint},
    }
    return Published(config, processor_document("CLIPImageProcessor", OPENAI, BICUBIC, {"shortest_edge": image}, image))


def _siglip(shape: tuple[int, int, int], patch: int, image: int, inner: int) -> Published:
    """Google's; both towers have one shape."""
    tower = _tower(*shape) | {"intermediate_size": inner}
    config = {
        "model_type": "siglip",
        "vision_config": tower | {"patch_size": patch, "image_size": image},
        "text_config": tower,
    }
    return Published(config, processor_document("SiglipImageProcessor", HALF, BICUBIC, square(image)))


def _tower(width: int, depth: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


_BASE, _LARGE, _SO400M = (768, 12, 12), (1024, 24, 16), (1152, 27, 16)

PUBLISHED = {
    "openai/clip-vit-base-patch32": _clip(_BASE, 32, 224, (512, 12, 8), 512),
    "openai/clip-vit-base-patch16": _clip(_BASE, 16, 224, (512, 12, 8), 512),
    "openai/clip-vit-large-patch14": _clip(_LARGE, 14, 224, (768, 12, 12), 768),
    "openai/clip-vit-large-patch14-336": _clip(_LARGE, 14, 336, (768, 12, 12), 768),
    "google/siglip-base-patch16-224": _siglip(_BASE, 16, 224, 3072),
    "google/siglip-base-patch16-256": _siglip(_BASE, 16, 256, 3072),
    "google/siglip-base-patch16-384": _siglip(_BASE, 16, 384, 3072),
    "google/siglip-base-patch16-512": _siglip(_BASE, 16, 512, 3072),
    "google/siglip-large-patch16-256": _siglip(_LARGE, 16, 256, 4096),
    "google/siglip-large-patch16-384": _siglip(_LARGE, 16, 384, 4096),
    "google/siglip-so400m-patch14-384": _siglip(_SO400M, 14, 384, 4304),
}


def _known(model: str, parameters: int) -> KnownModel:
    published = PUBLISHED[model]
    width = int(published.config["vision_config"]["hidden_size"])
    joint = int(published.config.get("projection_dim", width))
    own = ("cls", "patch_mean") if published.config["model_type"] == "clip" else ("patch_mean",)
    return KnownModel(
        source=model,
        outputs=(OutputSpec("image", joint), OutputSpec("text", joint), *(OutputSpec(name, width) for name in own)),
        parameters=parameters,
        preprocess=published.preprocess,
        licence="Apache-2.0" if model.startswith("google/") else None,
    )


_PARAMETERS = {
    "openai/clip-vit-base-patch32": 87_849_216,
    "openai/clip-vit-base-patch16": 86_192_640,
    "openai/clip-vit-large-patch14": 303_966_208,
    "openai/clip-vit-large-patch14-336": 304_293_888,
    "google/siglip-base-patch16-224": 92_884_224,
    "google/siglip-base-patch16-256": 92_930_304,
    "google/siglip-base-patch16-384": 93_176_064,
    "google/siglip-base-patch16-512": 93_520_128,
    "google/siglip-large-patch16-256": 315_956_224,
    "google/siglip-large-patch16-384": 316_283_904,
    "google/siglip-so400m-patch14-384": 428_225_600,
}
MODELS = {model: _known(model, parameters) for model, parameters in _PARAMETERS.items()}


def recognise(path: Path) -> str | None:
    """The folder's own name where transformers saved it; ``vit:`` is asked before, and takes its own kinds."""
    if not (path / "config.json").is_file():
        return None
    kind = read_json(path / "config.json").get("model_type")
    return path.resolve().name if kind else None


def has(model: str) -> bool:
    """Whether a name looks like a repository of the hub ("organisation/model"); only the hub knows more."""
    owner, slash, name = model.partition("/")
    return bool(owner and slash and name) and "/" not in name
