"""From a decoded image to the student's input: a random view while training, a fixed one otherwise.

A random view is a function of (image, seed) alone, whatever was drawn before and in whichever process.
"""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch
from torchvision import transforms

from embedkd.students.spec import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image
    from torch import Tensor


class Augment:
    """Random view of a training image; picklable, for loader workers.

    Args:
        image_px: Height and width of the result.
        crop_padding_px: Pixels that repeat the border of the resized image, before a crop is cut at random; 0 cuts the
            centre.
        min_crop_area: Least share of the area in a random resized crop; 1 resizes the whole image, shorter side first.
        flip: Probability of mirroring left and right.
        mean: Per channel, on pixels in [0, 1].
        std: Per channel, on pixels in [0, 1].
    """

    def __init__(
        self,
        *,
        image_px: int,
        crop_padding_px: int,
        min_crop_area: float,
        flip: float,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        steps: list[object] = []
        if min_crop_area < 1:
            steps.append(transforms.RandomResizedCrop(image_px, (min_crop_area, 1.0), interpolation=_BICUBIC))
        else:
            steps.append(transforms.Resize(image_px, _BICUBIC))
        if crop_padding_px:
            steps.append(transforms.RandomCrop(image_px, padding=crop_padding_px, padding_mode="edge"))
        else:
            steps.append(transforms.CenterCrop(image_px))
        steps.append(transforms.RandomHorizontalFlip(flip))
        self._steps = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __call__(self, image: "Image.Image", seed: int) -> "Tensor":
        """The view of that seed: float32 [3, image_px, image_px].

        Args:
            image: RGB.
            seed: Below 2**63; the only source of chance.
        """
        with _seeded(seed):
            view: Tensor = self._steps(image)
        return view


class FixedView:
    """The view that validation and evaluation use: shorter side resized, centre cut; picklable.

    Args:
        image_px: Height and width of the result.
        mean: Per channel, on pixels in [0, 1].
        std: Per channel, on pixels in [0, 1].
    """

    def __init__(
        self,
        *,
        image_px: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        self._steps = transforms.Compose(
            [
                transforms.Resize(image_px, _BICUBIC),
                transforms.CenterCrop(image_px),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __call__(self, image: "Image.Image", seed: int = 0) -> "Tensor":
        """The image as float32 [3, image_px, image_px]; nothing is drawn, the seed is not used."""
        view: Tensor = self._steps(image)
        return view


_BICUBIC: Final = transforms.InterpolationMode.BICUBIC


@contextmanager
def _seeded(seed: int) -> "Iterator[None]":
    """Torch's CPU generator, from which torchvision draws, at that seed, and afterwards as it was.

    torch.random.fork_rng and manual_seed do the same in 20 times as long: they also visit every accelerator.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
