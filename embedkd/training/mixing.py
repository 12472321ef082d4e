"""Mixup and cutmix: images of a batch are mixed in pairs, and the student is compared with the targets of both.

There is no target of a mixed image in a store, and a mean of two targets is none either (a mean of unit vectors is no
unit vector, a mean of logits no logits of a mean). So the loss is mixed: ``share * L(student(x), targets of one) +
(1 - share) * L(student(x), targets of the other)``. For cross-entropy on labels that is the same as mixed labels.

Zhang et al. 2018 (https://arxiv.org/abs/1710.09412), Yun et al. 2019 (https://arxiv.org/abs/1905.04899). timm's and
torchvision's own mix labels alone.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedkd.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.random import Generator
    from torch import Tensor

    from embedkd.config import AugmentConfig


@dataclass(frozen=True)
class Mixture:
    """How one batch is mixed; batches are shuffled, so the partner of a sample is the one before it.

    Attributes:
        share: Of a sample itself, from 0 to 1; the rest is its partner's.
        box: Left, top, right and bottom of what the partner takes, in pixels; None lays both images over each other.
    """

    share: float
    box: tuple[int, int, int, int] | None = None

    def pixels(self, pixels: "Tensor") -> "Tensor":
        """Images [B, 3, H, W] mixed with their partners."""
        if self.box is None:
            return torch.lerp(self.partners(pixels), pixels, self.share)
        left, top, right, bottom = self.box
        mixed = pixels.clone()
        mixed[..., top:bottom, left:right] = self.partners(pixels)[..., top:bottom, left:right]
        return mixed

    def partners(self, rows: "Tensor") -> "Tensor":
        """Of each of the rows [B, ...], that of its partner."""
        return rows.roll(1, 0)

    def mean(
        self, own: "tuple[Tensor, Mapping[str, Tensor]]", other: "tuple[Tensor, Mapping[str, Tensor]]"
    ) -> "tuple[Tensor, dict[str, Tensor]]":
        """A total and its terms, against own targets and against the partners', weighted by their shares."""
        (total, terms), (other_total, other_terms) = own, other
        return self._weighted(total, other_total), {
            name: self._weighted(value, other_terms[name]) for name, value in terms.items()
        }

    def _weighted(self, own: "Tensor", other: "Tensor") -> "Tensor":
        return self.share * own + (1 - self.share) * other


class Mixing:
    """Draws how each batch is mixed.

    Args:
        mixup: Both parameters of the beta distribution of shares, when images lie over each other; 0 for never.
        cutmix: The same of the area that stays, when the partner takes a rectangle; with both, each has half of the
            batches.
        probability: Share of batches that are mixed.
        image_px: Height and width of the images.
        seed: Of the run.
    """

    def __init__(self, *, mixup: float, cutmix: float, probability: float, image_px: int, seed: int) -> None:
        self._mixup = mixup
        self._cutmix = cutmix
        self._probability = probability
        self._image_px = image_px
        self._seed = seed

    @classmethod
    def of(cls, settings: "AugmentConfig", *, image_px: int, seed: int) -> "Mixing | None":
        """As ``[augment]`` of a config says; None where nothing is mixed."""
        if not (settings.mixup or settings.cutmix) or not settings.mix:
            return None
        return cls(mixup=settings.mixup, cutmix=settings.cutmix, probability=settings.mix, image_px=image_px, seed=seed)

    def draw(self, step: int, part: int = 0) -> Mixture | None:
        """The mixture of one forward pass, the same on all ranks, for they compute losses together; None for no mixing.

        Args:
            step: Counted from 1.
            part: Of the step, from 0.
        """
        chance = generator(self._seed, "mix", step, part)
        if chance.random() >= self._probability:
            return None
        cut = chance.random() < 0.5 if self._mixup and self._cutmix else bool(self._cutmix)
        alpha = self._cutmix if cut else self._mixup
        share = float(chance.beta(alpha, alpha))
        return self._cut(share, chance) if cut else Mixture(share)

    def _cut(self, share: float, chance: "Generator") -> Mixture:
        """A square about any pixel, cut off at the border; the share is what is left of the image in fact."""
        px = self._image_px
        half = math.sqrt(1 - share) / 2 * px
        x, y = chance.random(2) * px
        left, right, top, bottom = (round(min(max(at, 0.0), px)) for at in (x - half, x + half, y - half, y + half))
        return Mixture(1 - (right - left) * (bottom - top) / px**2, (left, top, right, bottom))
