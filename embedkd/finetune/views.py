"""What a teacher sees: a random crop, perhaps mirrored, while it learns; its own preprocessing otherwise. Picklable."""

from typing import TYPE_CHECKING

import torch
from torchvision import transforms

from embedkd.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image
    from torch import Tensor

    from embedkd.records import Preprocess


class TrainingView:
    """A random view that ends in the teacher's own size and normalisation.

    Args:
        preprocess: The teacher's.
        min_crop_area: Least share of the image's area in a random resized crop, at aspect ratios from 3/4 to 4/3; 1
            resizes the whole image.
        flip: Probability of mirroring left and right.

    Raises:
        TrainingError: The teacher's interpolation is not one of torchvision's.
    """

    def __init__(self, preprocess: "Preprocess", *, min_crop_area: float, flip: float) -> None:
        try:
            interpolation = transforms.InterpolationMode(preprocess.interpolation)
        except ValueError as error:
            known = ", ".join(mode.value for mode in transforms.InterpolationMode)
            raise TrainingError(
                f"expected a teacher that resizes by one of {known}, got {preprocess.interpolation!r}"
            ) from error
        size = preprocess.crop_px
        crop = (
            transforms.RandomResizedCrop(size, (min_crop_area, 1.0), interpolation=interpolation)
            if min_crop_area < 1
            else transforms.Resize(size, interpolation)
        )
        self._steps = transforms.Compose(
            [
                crop,
                transforms.RandomHorizontalFlip(flip),
                transforms.ToTensor(),
                transforms.Normalize(preprocess.mean, preprocess.std),
            ]
        )

    def __call__(self, image: "Image.Image", seed: int) -> "Tensor":
        """The view of that seed, float32 [3, H, W]; afterwards torch's generator is as it was.

        Args:
            image: RGB.
            seed: Below 2**63; the only source of chance.
        """
        state = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            view: Tensor = self._steps(image)
        finally:
            torch.default_generator.set_state(state)
        return view


class TeachersView:
    """The teacher's own preprocessing; nothing is drawn.

    Args:
        preprocess: The teacher's.
    """

    def __init__(self, preprocess: "Callable[[Image.Image], Tensor]") -> None:
        self._preprocess = preprocess

    def __call__(self, image: "Image.Image", seed: int = 0) -> "Tensor":
        """The image as the teacher sees it, float32 [3, H, W]; the seed is not used."""
        return self._preprocess(image)
