"""What a teacher sees of a stored view: the whole of its part of the image, squashed to the size that the model takes.

A teacher's own preprocessing would cut the part once more. So here, for every family alike, Pillow resizes 8-bit pixels
with the teacher's filter, and its mean and std follow.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchvision.transforms import InterpolationMode, functional

from embedkd.errors import TeacherError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from embedkd.records import Preprocess


@dataclass(frozen=True)
class Squash:
    """A transform of one image; pickles without the model.

    Attributes:
        facts: The preprocessing that belongs to the teacher's weights, of which the crop is not used.

    Raises:
        TeacherError: The teacher's filter is none of Pillow's.
    """

    facts: "Preprocess"

    def __post_init__(self) -> None:
        known = [mode.value for mode in InterpolationMode]
        if self.facts.interpolation not in known:
            raise TeacherError(
                f"stored views need a teacher that resizes by {', '.join(known)}, got '{self.facts.interpolation}'; "
                "leave out --views"
            )

    def __call__(self, image: "Image") -> "Tensor":
        """From RGB of any size to float32 [3, H, W]."""
        resized = functional.resize(image, self.facts.crop_px, InterpolationMode(self.facts.interpolation))
        pixels: Tensor = functional.normalize(functional.to_tensor(resized), self.facts.mean, self.facts.std)
        return pixels
