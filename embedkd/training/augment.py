"""From a decoded image to the student's input: a random view while training, a fixed one otherwise.

A random view is a function of (image, seed) alone, whatever was drawn before and in whichever process. All transforms
are torchvision's: they draw from one generator, where timm's draw from three, and importing timm would take a loader
worker seconds.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torchvision import transforms
from torchvision.transforms import functional as F

from embedkd.students.spec import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image
    from torch import Tensor

    from embedkd.config import AugmentConfig

_BICUBIC: Final = transforms.InterpolationMode.BICUBIC
_RATIOS: Final = (3 / 4, 4 / 3)
_ERASED_AREA: Final = (0.02, 1 / 3)
_MOVING: Final = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


@dataclass(frozen=True)
class _Cut:
    """Where a view lies in an image.

    Attributes:
        box: Left, top, width and height in the image's pixels; None for the whole image.
        offset: Left and top of the view in what the box was resized to and padded; None for its centre.
        mirrored: Whether it is mirrored at last.
    """

    box: tuple[int, int, int, int] | None
    offset: tuple[int, int] | None
    mirrored: bool


class Augment:
    """Random view of a training image; picklable, for loader workers.

    Args:
        settings: What is drawn; images are not mixed here.
        image_px: Height and width of the result.
        squash: Whether the whole image becomes the square, as the teacher of a stored view saw it: nothing is cut off.
            Else its shorter side does, and the centre is cut.
        mean: Per channel, on pixels in [0, 1].
        std: Per channel, on pixels in [0, 1].
    """

    def __init__(
        self,
        settings: "AugmentConfig",
        *,
        image_px: int,
        squash: bool = False,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        self._image_px = image_px
        self._padding_px = settings.crop_padding_px
        self._min_area = settings.min_crop_area
        self._flip = settings.flip
        self._squash = squash
        self._colours = transforms.Compose(_on_images(settings, mean))
        after = [transforms.RandomErasing(settings.erase, scale=_ERASED_AREA)] if settings.erase else []
        self._to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std), *after])

    def __call__(self, image: "Image.Image", seed: int) -> "Tensor":
        """The view of that seed: float32 [3, image_px, image_px].

        Args:
            image: RGB.
            seed: Below 2**63; the only source of chance.
        """
        with _seeded(seed):
            view: Tensor = self._to_tensor(self._colours(self._cut(image, self._draw(image))))
        return view

    def part(self, image: "Image.Image", seed: int) -> "tuple[Image.Image, bool]":
        """What the view of that seed shows, in the pixels of the image: for a teacher with its own resolution.

        Shears, shifts and rotations of RandAugment, and all that changes no place, are left out.

        Args:
            image: RGB.
            seed: As in the call.

        Returns:
            The part of the image, its border repeated where the view lies beyond it, mirrored or not; and whether it is
            less or other than the whole image.
        """
        with _seeded(seed):
            cut = self._draw(image)
        shown = image
        if cut.box is not None:
            left, top, width, height = cut.box
            shown = F.crop(image, top, left, height, width)
        if cut.offset is not None:
            shown = self._shifted(shown, cut.offset)
        return (F.hflip(shown) if cut.mirrored else shown), cut.box is not None or cut.offset is not None

    def _draw(self, image: "Image.Image") -> _Cut:
        """All chance about places, before any other is drawn."""
        box = offset = None
        width, height = image.size
        if self._min_area < 1:
            top, left, height, width = transforms.RandomResizedCrop.get_params(
                image, [self._min_area, 1.0], list(_RATIOS)
            )
            box = (left, top, width, height)
        if self._padding_px:
            wide, high = self._resized(width, height, cropped=box is not None)
            top = int(torch.randint(0, high + 2 * self._padding_px - self._image_px + 1, (1,)))
            left = int(torch.randint(0, wide + 2 * self._padding_px - self._image_px + 1, (1,)))
            offset = (left, top)
        return _Cut(box, offset, bool(torch.rand(1) < self._flip))

    def _resized(self, width: int, height: int, *, cropped: bool) -> tuple[int, int]:
        """Width and height that an image, or a crop of it, is resized to."""
        px = self._image_px
        if cropped or self._squash:
            return px, px
        return (px, int(px * height / width)) if width <= height else (int(px * width / height), px)

    def _cut(self, image: "Image.Image", cut: _Cut) -> "Image.Image":
        px, pad = self._image_px, self._padding_px
        if cut.box is not None:
            left, top, width, height = cut.box
            view = F.resized_crop(image, top, left, height, width, [px, px], _BICUBIC)
        else:
            view = F.resize(image, [px, px] if self._squash else [px], _BICUBIC)
        if cut.offset is not None:
            left, top = cut.offset
            view = F.crop(F.pad(view, [pad], padding_mode="edge"), top, left, px, px)
        else:
            view = F.center_crop(view, [px])
        done: Image.Image = F.hflip(view) if cut.mirrored else view
        return done

    def _shifted(self, image: "Image.Image", offset: tuple[int, int]) -> "Image.Image":
        """The square behind an offset in the resized image, in the pixels of the image itself."""
        wide, high = self._resized(*image.size, cropped=self._min_area < 1)
        across, down = image.width / wide, image.height / high
        left, top = ((at - self._padding_px) * scale for at, scale in zip(offset, (across, down), strict=True))
        pad_x, pad_y = (round(self._padding_px * scale) for scale in (across, down))
        padded = F.pad(image, [pad_x, pad_y], padding_mode="edge")
        size = (max(1, round(self._image_px * down)), max(1, round(self._image_px * across)))
        square: Image.Image = F.crop(padded, round(top) + pad_y, round(left) + pad_x, *size)
        return square


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


class _Operations(transforms.RandAugment):  # type: ignore[misc]
    """RandAugment, with or without what moves pixels."""

    def __init__(self, count: int, magnitude: int, *, moves: bool, fill: list[float]) -> None:
        super().__init__(count, magnitude, fill=fill)
        self._moves = moves

    def _augmentation_space(self, num_bins: int, image_size: tuple[int, int]) -> "dict[str, tuple[torch.Tensor, bool]]":
        space: dict[str, tuple[torch.Tensor, bool]] = super()._augmentation_space(num_bins, image_size)
        return {name: entry for name, entry in space.items() if self._moves or name not in _MOVING}


def _on_images(settings: "AugmentConfig", mean: tuple[float, float, float]) -> list[object]:
    steps: list[object] = []
    if settings.rand_augment:
        fill = [float(round(255 * channel)) for channel in mean]
        steps.append(_Operations(settings.rand_augment, settings.rand_magnitude, moves=settings.rand_moves, fill=fill))
    if settings.colour_jitter or settings.hue_jitter:
        steps.append(transforms.ColorJitter(*[settings.colour_jitter] * 3, settings.hue_jitter))
    if settings.grey:
        steps.append(transforms.RandomGrayscale(settings.grey))
    return steps


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
