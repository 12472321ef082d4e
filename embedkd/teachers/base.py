"""What a teacher is: the protocol that every family fulfils. Torch-free to import.

A family is one adapter module with ``load(name, device, precision) -> Teacher`` and one entry in
`embedkd.teachers.catalogue.FAMILIES`. Everything that decides the values (resize, mean and std, precision, weights)
stays inside the teacher and is part of its spec's fingerprint.
"""

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from embedkd.records import TeacherSpec

# Parameters of glibc's mallopt(3), from <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_INT = 2**31 - 1


@dataclass(frozen=True)
class ResolvedName:
    """What a teacher's name means, without loading anything.

    Attributes:
        name: Full name, family first ("vit:ViT-L-32"), equal to the ``name`` of the loaded teacher's spec. A local
            path is no part of it, so that a store does not depend on where its weights lay.
        family: Key in the table of families.
        model: The name within its family.
        source: Where the weights come from, for people: a hub repository, a package, a path.
        weights: Local path of the weights; None where `source` decides.
        note: One line to print where the name could have meant something else.
    """

    name: str
    family: str
    model: str
    source: str
    weights: str | None = None
    note: str | None = None


class Teacher(Protocol):
    """A model with its preprocessing, ready to say what it knows about images."""

    @property
    def spec(self) -> "TeacherSpec":
        """Everything that decides what this teacher says, and where it came from."""
        ...

    @property
    def preprocess(self) -> "Callable[[Image], Tensor]":
        """The library's own evaluation transform, from an RGB image to float32 [3, H, W].

        It pickles without the model, so that a decode worker can take it alone.
        """
        ...

    def embed(self, pixels: "Tensor", outputs: "Sequence[str]") -> "dict[str, Tensor]":
        """Run the model on one batch.

        Args:
            pixels: float32 [B, 3, H, W], stacked from `preprocess`. An empty batch is allowed.
            outputs: Names from the spec's outputs.

        Returns:
            For each name asked for, float32 [B, D] on the CPU, without gradient.

        Raises:
            TeacherError: An output that this teacher lacks, or pixels of another shape or dtype.
        """
        ...


def tune_allocator() -> bool:
    """Let glibc keep the memory of activations between forward passes; call it once in a process that runs a teacher.

    By default glibc maps every large tensor anew and gives it back at once, so a CPU forward pass spends up to half of
    its time in page faults (measured: 590,000 in one batch of 32 images of 224 px). Kept memory is reused instead, and
    the process holds its peak until it ends. Numbers do not change.

    Returns:
        Whether the allocator took both settings; False on systems without glibc, where nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, _LARGEST_INT))
    taken = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(taken)
