"""``openclip:``: every model of open_clip."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from embedkd.records import OutputSpec, Preprocess
from embedkd.teachers.folders import read_json
from embedkd.teachers.known.model import KnownModel

CONFIG_FILE = "open_clip_config.json"
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

# The weights that a name without a tag means; all other tags are open_clip's.
DEFAULT_TAGS = {
    "EVA02-L-14": "merged2b_s4b_b131k",
    "MobileCLIP-B": "datacompdr",
    "MobileCLIP-S1": "datacompdr",
    "RN50": "openai",
    "RN101": "openai",
    "ViT-B-16": "laion2b_s34b_b88k",
    "ViT-B-16-SigLIP": "webli",
    "ViT-B-32": "laion2b_s34b_b79k",
    "ViT-H-14": "laion2b_s32b_b79k",
    "ViT-L-14": "openai",
    "ViT-L-14-336": "openai",
    "ViT-L-16-SigLIP-256": "webli",
    "ViT-SO400M-14-SigLIP": "webli",
}


def _clip(source: str, dim: int, parameters: int, pixels: Preprocess, *, cls: int = 0, patches: int = 0) -> KnownModel:
    """Text and image in a space of `dim`; widths of the tokens before it, where the image tower has them."""
    widths = {"image": dim, "text": dim, "cls": cls, "patch_mean": patches or cls}
    outputs = tuple(OutputSpec(name, width) for name, width in widths.items() if width)
    return KnownModel(source=source, outputs=outputs, parameters=parameters, preprocess=pixels)


def _shorter(side_px: int, scale: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Preprocess:
    return Preprocess(side_px, (side_px, side_px), "bilinear" if scale == _PLAIN else "bicubic", *scale)


def _squash(side_px: int) -> Preprocess:
    return Preprocess((side_px, side_px), (side_px, side_px), "bicubic", *_HALF)


MODELS: dict[str, KnownModel] = {
    "RN50": _clip("timm/resnet50_clip.openai", 1024, 38_316_896, _shorter(224, _OPENAI)),
    "RN101": _clip("timm/resnet101_clip.openai", 512, 56_259_936, _shorter(224, _OPENAI)),
    "ViT-B-32": _clip("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", 512, 87_849_216, _shorter(224, _OPENAI), cls=768),
    "ViT-B-16": _clip("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", 512, 86_192_640, _shorter(224, _OPENAI), cls=768),
    "ViT-L-14": _clip("timm/vit_large_patch14_clip_224.openai", 768, 303_966_208, _shorter(224, _OPENAI), cls=1024),
    "ViT-L-14-336": _clip("timm/vit_large_patch14_clip_336.openai", 768, 304_293_888, _shorter(336, _OPENAI), cls=1024),
    "ViT-H-14": _clip("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 1024, 632_076_800, _shorter(224, _OPENAI), cls=1280),
    "ViT-B-16-SigLIP": _clip("timm/ViT-B-16-SigLIP", 768, 92_884_224, _squash(224), patches=768),
    "ViT-L-16-SigLIP-256": _clip("timm/ViT-L-16-SigLIP-256", 1024, 315_956_224, _squash(256), patches=1024),
    "ViT-SO400M-14-SigLIP": _clip("timm/ViT-SO400M-14-SigLIP", 1152, 427_680_704, _squash(224), patches=1152),
    "MobileCLIP-S1": _clip("apple/MobileCLIP-S1-OpenCLIP", 512, 21_541_632, _shorter(256, _PLAIN)),
    "MobileCLIP-B": _clip("apple/MobileCLIP-B-OpenCLIP", 512, 86_349_056, _shorter(224, _PLAIN), cls=768),
    "EVA02-L-14": _clip(
        "timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k", 768, 304_105_152, _shorter(224, _OPENAI), cls=1024
    ),
}


def recognise(path: Path) -> str | None:
    """The model of a folder that open_clip saved, or None where it is none."""
    if not (path / CONFIG_FILE).is_file():
        return None
    config = read_json(path / CONFIG_FILE).get("model_cfg")
    shapes = {name: read_json(file) for name, file in config_files().items()}
    return next((name for name, shape in shapes.items() if shape == config), path.resolve().name)


def has(model: str) -> bool:
    """Whether open_clip has an architecture of that name."""
    return model in config_files()


@cache
def config_files() -> dict[str, Path]:
    """Architectures of the installed open_clip: name to the file that describes it. Does not import open_clip."""
    spec = find_spec("open_clip")
    places = spec.submodule_search_locations if spec is not None else None
    return {file.stem: file for place in places or () for file in sorted(Path(place, "model_configs").glob("*.json"))}


def tags(model: str) -> list[str]:
    """Names of the pretrained weights of a model, the default ones first; imports open_clip, which takes seconds."""
    from open_clip import list_pretrained_tags_by_model

    default = DEFAULT_TAGS.get(model)
    return sorted(list_pretrained_tags_by_model(model), key=lambda tag: tag != default)
