"""``timm:``: any model of timm."""

from pathlib import Path

from embedkd.records import OutputSpec, Preprocess
from embedkd.teachers.folders import read_json
from embedkd.teachers.known.model import KnownModel

_Scale = tuple[tuple[float, float, float], tuple[float, float, float]]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CLIP = ((0.48145467, 0.4578275, 0.40821072), (0.26862955, 0.2613026, 0.2757771))


def _center(resize_px: int, side_px: int, scale: _Scale = _IMAGENET) -> Preprocess:
    return Preprocess(resize_px, (side_px, side_px), "bicubic", *scale)


def _squash(side_px: int, scale: _Scale) -> Preprocess:
    return Preprocess((side_px, side_px), (side_px, side_px), "bicubic", *scale)


def _network(dim: int, classes: int, parameters: int, pixels: Preprocess, licence: str, name: str) -> KnownModel:
    outputs = (OutputSpec("pooled", dim), OutputSpec("logits", classes))
    return KnownModel(f"timm/{name}", outputs, parameters, pixels, licence)


def _tokens(dim: int, classes: int, parameters: int, pixels: Preprocess, licence: str, name: str) -> KnownModel:
    """A transformer whose last norm is that of its tokens."""
    widths = {"cls": dim, "pooled": dim, "logits": classes, "patch_mean": dim}
    outputs = tuple(OutputSpec(output, width) for output, width in widths.items() if width)
    return KnownModel(f"timm/{name}", outputs, parameters, pixels, licence)


_LINES = (
    (_tokens, 768, 21_843, 102_595_923, _center(248, 224, _HALF), "apache-2.0", "vit_base_patch16_224.augreg_in21k"),
    (_tokens, 1024, 21_843, 325_690_707, _center(248, 224, _HALF), "apache-2.0", "vit_large_patch16_224.augreg_in21k"),
    (_tokens, 768, 0, 85_798_656, _center(248, 224), "apache-2.0", "vit_base_patch16_224.dino"),
    (_tokens, 768, 0, 86_579_712, _center(518, 518), "apache-2.0", "vit_base_patch14_dinov2.lvd142m"),
    (_tokens, 1024, 0, 304_367_616, _center(518, 518), "apache-2.0", "vit_large_patch14_dinov2.lvd142m"),
    (_tokens, 768, 0, 85_641_216, _center(256, 256), "dinov3-license", "vit_base_patch16_dinov3.lvd1689m"),
    (_tokens, 768, 1000, 87_338_192, _center(248, 224), "apache-2.0", "deit_base_distilled_patch16_224.fb_in1k"),
    (_tokens, 768, 1000, 86_585_320, _center(224, 224), "apache-2.0", "deit3_base_patch16_224.fb_in22k_ft_in1k"),
    (_network, 2048, 1000, 25_557_032, _center(235, 224), "apache-2.0", "resnet50.a1_in1k"),
    (_network, 2048, 1000, 60_192_808, _center(235, 224), "apache-2.0", "resnet152.a1_in1k"),
    (_network, 3024, 1000, 83_590_140, _center(235, 224), "apache-2.0", "regnety_160.deit_in1k"),
    (_network, 1024, 1000, 88_591_464, _center(256, 224), "apache-2.0", "convnext_base.fb_in22k_ft_in1k"),
    (_network, 1024, 1000, 87_768_224, _center(248, 224), "mit", "swin_base_patch4_window7_224.ms_in22k_ft_in1k"),
    (_network, 1024, 1000, 304_430_568, _center(235, 224), "apache-2.0", "beitv2_large_patch16_224.in1k_ft_in22k_in1k"),
    (_network, 1024, 1000, 305_080_232, _squash(448, _CLIP), "mit", "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k"),
    (_network, 1280, 1000, 118_515_272, _squash(384, _HALF), "apache-2.0", "tf_efficientnetv2_l.in21k_ft_in1k"),
)
MODELS: dict[str, KnownModel] = {line[-1]: line[0](*line[1:]) for line in _LINES}


def recognise(path: Path) -> str | None:
    """The architecture of a folder that timm saved, or None where it is none."""
    if not (path / "config.json").is_file():
        return None
    architecture = read_json(path / "config.json").get("architecture")
    return architecture if isinstance(architecture, str) else None


def has(model: str) -> bool:
    """Whether timm has an architecture of that name, with or without a tag; imports timm, which takes seconds."""
    import timm

    return bool(timm.is_model(model))


def architectures() -> list[str]:
    """All architectures of timm; imports it, which takes seconds."""
    import timm

    return list(timm.list_models())
