"""What every student is, whoever built its layers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from embedkd.seeding import stream_seed
from embedkd.students.spec import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class StudentOutput(NamedTuple):
    """What a student says about B images.

    Attributes:
        embedding: [B, embedding_dim], not normalised; the head reads it and losses compare it.
        logits: [B, num_classes], raw.
        taps: Name of each inner layer that the student was built to give out to [B, its width], not normalised.
    """

    embedding: "Tensor"
    logits: "Tensor"
    taps: "Mapping[str, Tensor]" = MappingProxyType({})


class Student(nn.Module, ABC):
    """A model with an embedding and a classifier on top of it.

    Attributes:
        embedding_dim: Width of the embedding.
        num_classes: Width of the logits.
        image_px: Height and width of its input.
        tap_dims: Name of each inner layer that it gives out to its width.
        multiply_adds: Of its matrix products and convolutions for one image that it sees whole; 0 where not counted.
        mean: Per channel, on pixels in [0, 1], that its input is normalised by.
        std: Likewise.
        begun_from: Where its first weights came from; None where they were drawn.
    """

    embedding_dim: int
    num_classes: int
    image_px: int
    tap_dims: Mapping[str, int] = MappingProxyType({})
    multiply_adds: int = 0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    begun_from: str | None = None

    @abstractmethod
    def forward(self, pixels: "Tensor") -> StudentOutput:
        """Look at images.

        Args:
            pixels: float32 [B, 3, image_px, image_px], normalised per channel.
        """

    def no_weight_decay(self) -> set[str]:
        """Parameters, by name, that weight decay leaves alone beside those of one dimension; timm's convention."""
        return set()

    @property
    def has_batch_norm(self) -> bool:
        """Whether it learns from statistics of its batch, which a batch of one sample does not have."""
        return any(isinstance(module, _BatchNorm) for module in self.modules())


def parameter_count(module: nn.Module) -> int:
    """Number of parameters, trainable or not, each once.

    >>> parameter_count(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def drawn_from(seed: int) -> "Iterator[None]":
    """Within it, modules are built on the CPU and draw their initial weights from that seed alone.

    Torch's own CPU generator is as before afterwards. The seed goes to no other device's, as torch.manual_seed does.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(stream_seed(seed, "student"))
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.default_generator.set_state(state)
