"""Stored views: which part of an image a view shows. Teachers and students cut it here, so both see the same pixels.

The part is a function of the view, the sample's key and the image's size alone. It is drawn from BLAKE2b and not from
a library's generator, whose numbers may change with its version; docs/store-format.md, section 5.8, is the norm.
"""

import hashlib
import math
from typing import TYPE_CHECKING, NamedTuple

from PIL.Image import Transpose

from embedkd.records import key_hash

if TYPE_CHECKING:
    from PIL.Image import Image

    from embedkd.records import ViewSpec

MIN_ASPECT, MAX_ASPECT = 3 / 4, 4 / 3
_TRIES = 10  # torchvision's number: afterwards an image is so long that hardly any part fits


class Crop(NamedTuple):
    """A part of an image in whole pixels, and whether it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool


def crop_view(image: "Image", view: "ViewSpec", key: str) -> "Image":
    """The part of an image that a view shows, in the image's own resolution.

    Args:
        image: The decoded image, whole.
        view: The view.
        key: webdataset's ``__key__`` of the sample.
    """
    crop = find_crop(image.size, view, key_hash(key))
    part = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
    return part.transpose(Transpose.FLIP_LEFT_RIGHT) if crop.mirrored else part


def find_crop(size: tuple[int, int], view: "ViewSpec", hashed_key: int) -> Crop:
    """Which part of an image a view shows, distributed as in torchvision's RandomResizedCrop.

    >>> from embedkd.records import ViewSpec, key_hash
    >>> find_crop((640, 480), ViewSpec(seed=0, index=3, min_crop_area=0.35, flip=0.5), key_hash("cat/0001"))
    Crop(left=115, top=22, width=410, height=379, mirrored=True)

    Args:
        size: Width and height of the image.
        view: The view.
        hashed_key: Of the sample, as ``rows/key`` has it.
    """
    mirrored = _draws(view, hashed_key, 0)[0] < view.flip * 2**64
    for attempt in range(_TRIES):
        found = _try(size, view.min_crop_area, _draws(view, hashed_key, attempt)[1:])
        if found is not None:
            return Crop(*found, mirrored)
    return Crop(*_centre(*size), mirrored)


def _draws(view: "ViewSpec", hashed_key: int, attempt: int) -> tuple[int, ...]:
    """Five numbers below 2^64: for mirroring, area, aspect ratio, left and top."""
    message = b"".join(number.to_bytes(8, "little") for number in (hashed_key, view.index, attempt))
    digest = hashlib.blake2b(message, digest_size=40, key=b"%d" % view.seed, person=b"view").digest()
    return tuple(int.from_bytes(digest[at : at + 8], "little") for at in range(0, 40, 8))


def _try(size: tuple[int, int], least: float, draws: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Left, top, width and height; None where the part does not fit."""
    width, height = size
    share, stretch = (draw / 2**64 for draw in draws[:2])
    area = width * height * (least + (1 - least) * share)
    aspect = math.exp(math.log(MAX_ASPECT) * (2 * stretch - 1))
    part_width, part_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if not (0 < part_width <= width and 0 < part_height <= height):
        return None
    left, top = draws[2] * (width - part_width + 1) >> 64, draws[3] * (height - part_height + 1) >> 64
    return left, top, part_width, part_height


def _centre(width: int, height: int) -> tuple[int, int, int, int]:
    """Of an image that is too long the largest part in its centre that is not, else all of it."""
    part_width = min(width, round(height * MAX_ASPECT))
    part_height = min(height, round(width / MIN_ASPECT))
    return (width - part_width) // 2, (height - part_height) // 2, part_width, part_height
