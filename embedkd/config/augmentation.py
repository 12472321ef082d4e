"""``[augment]``: what a student sees in place of an image, and named settings of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from embedkd.config.checks import require
from embedkd.errors import UnknownNameError

_MAX_MAGNITUDE = 30  # torchvision's RandAugment knows 31 strengths
_MAX_HUE = 0.5  # half of the colour circle, in both directions


@dataclass(frozen=True)
class AugmentConfig:
    """``[augment]``: the student's random view of a training image.

    The teacher's part of a view is what lies where. ``crop_padding_px``, ``min_crop_area``, ``flip`` and RandAugment's
    shears, shifts and rotations move pixels, so a stored row is no longer what the teacher would say of the picture.
    Colours and holes leave everything in its place: the student is to say of the changed picture what the teacher says
    of the clean one. Mixed images are compared with the targets of both.

    Attributes:
        crop_padding_px: Pixels of padding around the resized image, out of which a crop is cut; 0 pads nothing. For
            long runs: 4 on images of 32 is usual, and needs more than 30 epochs to pay.
        min_crop_area: Least share of the image's area in a random resized crop, at aspect ratios from 3/4 to 4/3; 1
            resizes the whole image.
        flip: Probability of mirroring left and right.
        rand_augment: Operations of RandAugment an image; 0 for none.
        rand_magnitude: Their strength, from 0 to 30.
        rand_moves: Whether shears, shifts and rotations are among them; if not, they change colours alone.
        colour_jitter: Greatest change of brightness, contrast and saturation, as a share.
        hue_jitter: Greatest change of hue, as a share of the colour circle.
        grey: Probability that an image loses its colours.
        erase: Probability that a rectangle of 2 to 33 % of the image becomes the mean colour.
        mixup: Both parameters of the beta distribution that shares of two images are drawn from; 0 mixes none.
        cutmix: The same for the area that a rectangle of another image takes; with both, each has every second batch.
        mix: Share of batches that are mixed.
    """

    crop_padding_px: int = 0
    min_crop_area: float = 1.0
    flip: float = 0.5
    rand_augment: int = 0
    rand_magnitude: int = 9
    rand_moves: bool = True
    colour_jitter: float = 0.0
    hue_jitter: float = 0.0
    grey: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix: float = 1.0

    def __post_init__(self) -> None:
        require(self.crop_padding_px >= 0, "augment.crop_padding_px", "at least 0", self.crop_padding_px)
        require(0 < self.min_crop_area <= 1, "augment.min_crop_area", "above 0 and at most 1", self.min_crop_area)
        require(self.rand_augment >= 0, "augment.rand_augment", "at least 0", self.rand_augment)
        fits = 0 <= self.rand_magnitude <= _MAX_MAGNITUDE
        require(fits, "augment.rand_magnitude", f"from 0 to {_MAX_MAGNITUDE}", self.rand_magnitude)
        require(0 <= self.hue_jitter <= _MAX_HUE, "augment.hue_jitter", f"from 0 to {_MAX_HUE}", self.hue_jitter)
        for name in ("flip", "colour_jitter", "grey", "erase", "mix"):
            require(0 <= getattr(self, name) <= 1, f"augment.{name}", "from 0 to 1", getattr(self, name))
        for name in ("mixup", "cutmix"):
            # A beta distribution of larger parameters is all but a half; of infinite ones numpy draws NaN.
            require(0 <= getattr(self, name) <= 1e6, f"augment.{name}", "from 0 to 1000000", getattr(self, name))

    @property
    def moves_pixels(self) -> bool:
        """Whether the student may see another view of an image than the teacher did."""
        rand_moves = self.rand_augment > 0 and self.rand_moves
        return self.crop_padding_px > 0 or self.min_crop_area < 1 or self.flip > 0 or rand_moves


AUGMENTATIONS: Final[Mapping[str, Mapping[str, int | float | bool]]] = {
    "none": {"flip": 0.0},
    "flip": {},
    # What is usual for CIFAR since ResNet.
    "crop": {"crop_padding_px": 4},
    # As strong as it gets while every pixel stays in its place: for targets a sample, without --allow-view-mismatch.
    "colour": {"flip": 0.0, "rand_augment": 2, "rand_moves": False, "colour_jitter": 0.4, "erase": 0.25},
    # That of DeiT (Touvron et al. 2021), with an even random crop of not less than a third.
    "strong": {"min_crop_area": 0.35, "rand_augment": 2, "erase": 0.25, "mixup": 0.8, "cutmix": 1.0},
}


def expand_augmentation(document: dict[str, Any]) -> None:
    """Put the settings that ``augment.preset`` names in its place; settings that are given win over the preset's.

    Raises:
        UnknownNameError: There is no such preset.
    """
    table = document.get("augment")
    if not isinstance(table, dict) or "preset" not in table:
        return  # what is no table is refused where all types are checked
    name, given = str(table["preset"]), {key: value for key, value in table.items() if key != "preset"}
    if name not in AUGMENTATIONS:
        raise UnknownNameError("augmentation", name, AUGMENTATIONS)
    document["augment"] = {**AUGMENTATIONS[name], **given}
