"""A teacher in the loop, as the trainer knows it: who says the rows, and of which pixels. Training imports none."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from embedkd.join import Batch, Target
    from embedkd.join.dataset import Transform
    from embedkd.training.augment import Augment


class LiveTeacher(Protocol):
    """One teacher, or several, run on the very views that the student sees."""

    def beside(self, augment: "Augment") -> "Mapping[str, Transform]":
        """Name of each kind of pixels to what makes them of an image and the seed of the student's view; picklable.

        Args:
            augment: The student's.
        """
        ...

    def rows(self, batch: "Batch") -> "dict[str, Tensor]":
        """What the teachers say of a batch, in place of its stored rows.

        Args:
            batch: On any device, with the pixels of `beside` under their names.

        Returns:
            Name of each target to float32 [B, D] without gradient, on the batch's device.
        """
        ...


LiveMaker = Callable[["Sequence[Target]", "torch.device"], LiveTeacher]
"""From what the losses read of each batch, and the device of this rank, to who says it; loads the teachers."""
