"""What a teacher in the loop sees of an image: the very part that the student sees, in the teacher's own resolution."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image
    from torch import Tensor

    from embedkd.training.augment import Augment


@dataclass(frozen=True)
class TeachersView:
    """A transform of an image and the seed of the student's view; pickles without the teacher's model.

    A whole image, perhaps mirrored, is prepared as the teacher's library does it, so that an unaugmented run says what
    the store says. A part of one is resized to the teacher's input and nothing more is cut off. Colours, erasing and
    mixing are the student's alone, as they are where rows come from a store.

    Attributes:
        augment: The student's.
        whole: From a whole image to float32 [3, H, W].
        part: From a part of one to the same.
    """

    augment: "Augment"
    whole: "Callable[[Image], Tensor]"
    part: "Callable[[Image], Tensor]"

    def __call__(self, image: "Image", seed: int) -> "Tensor":
        """The teacher's input: float32 [3, H, W].

        Args:
            image: RGB.
            seed: The one that the student's view is drawn by.
        """
        shown, cut = self.augment.part(image, seed)
        return (self.part if cut else self.whole)(shown)
