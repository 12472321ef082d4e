"""Evaluation transforms of torchvision, timm and open_clip as facts: what a `Preprocess` says of them.

The transforms themselves are built by their library and called as it calls them; nothing is computed anew here.
"""

from typing import Any

from torch import Tensor

from embedkd.errors import TeacherError
from embedkd.records import Preprocess

_LARGEST_SIDE_PX = 8_192
# timm and open_clip have classes of the same names, each its own copy.
_CONVERSIONS = ("MaybeConvertMode", "MaybeToTensor", "ToTensor")

Triple = tuple[float, float, float]
Colour = tuple[int, int, int]


def describe_transform(transform: Any, source: str) -> Preprocess:
    """The facts of an evaluation transform, read from the transform itself.

    Args:
        transform: A torchvision ``Compose``: a resize, perhaps a crop, the conversion to a tensor, a normalisation.
        source: Where it comes from, for errors.

    Raises:
        TeacherError: Its images would not all have one size, or it does what no `Preprocess` can say.
    """
    try:
        return _facts_of(transform, source)
    except (AttributeError, TypeError, ValueError) as error:
        raise TeacherError(f"{source} has an image transform that cannot be described: {error}") from error


def _facts_of(transform: Any, source: str) -> Preprocess:
    steps = [step for step in transform.transforms if type(step).__name__ not in _CONVERSIONS]
    resize, normalise = steps[0], steps[-1]
    crop = steps[1] if len(steps) == 3 else None
    kinds = [type(step).__name__ for step in steps]
    if kinds[0] not in {"Resize", "ResizeKeepRatio"} or kinds[-1] != "Normalize" or len(steps) > 3:
        raise TeacherError(f"{source} prepares images by {' > '.join(kinds)}; expected resize, crop, normalisation")
    resize_px, pad_rgb = _resize(resize, crop, source)
    crop_px = _pair(crop.size if crop is not None else resize.size)
    sides = (*(resize_px if isinstance(resize_px, tuple) else (resize_px,)), *crop_px)
    if not 1 <= min(sides) <= max(sides) <= _LARGEST_SIDE_PX:
        raise TeacherError(f"{source} prepares images with sides of {sides} px, expected 1 to {_LARGEST_SIDE_PX}")
    mean, std = _triple(normalise.mean), _triple(normalise.std)
    if min(std) <= 0:
        raise TeacherError(f"{source} has a std of {std}, expected positive numbers")
    return Preprocess(resize_px, crop_px, resize.interpolation.value, mean, std, pad_rgb=pad_rgb)


def _resize(resize: Any, crop: Any, source: str) -> tuple[int | tuple[int, int], Colour | None]:
    """What the resize gives: the shorter side, both sides, or the longer side and the colour of the rest."""
    if type(resize).__name__ == "Resize":
        if isinstance(resize.size, int) and crop is None:
            raise TeacherError(f"{source} keeps the aspect ratio and crops nothing, so its images differ in size")
        return (resize.size if isinstance(resize.size, int) else _pair(resize.size)), None
    height, width = resize.size
    if height != width or float(resize.longest) not in {0.0, 1.0}:
        raise TeacherError(f"{source} keeps the aspect ratio for an input of {height} x {width} px; expected a square")
    if not resize.longest:
        return int(height), None
    fill = crop.fill if isinstance(crop.fill, list | tuple) else (crop.fill,) * 3
    red, green, blue = (int(level) for level in fill)
    return int(height), (red, green, blue)


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _triple(values: Any) -> Triple:
    # timm keeps float32 tensors: the shortest decimal that rounds to one is what its config says.
    red, green, blue = (float(str(value)) for value in (values.numpy() if isinstance(values, Tensor) else values))
    return red, green, blue
