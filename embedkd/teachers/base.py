"""What a teacher is: the protocol that every family fulfils. Torch-free to import.

A family is one adapter module with ``load(name, options) -> Teacher`` and one entry in
`embedkd.teachers.catalogue.FAMILIES`. Everything that decides the values (resize, mean and std, precision, weights)
stays inside the teacher and is part of its spec's fingerprint.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor, nn

    from embedkd.records import TeacherSpec, ViewSpec


@dataclass(frozen=True)
class ResolvedName:
    """What a teacher's name means, without loading anything.

    Attributes:
        name: Full name, family first ("vit:ViT-L-32"), equal to the ``name`` of the loaded teacher's spec. A local
            path is no part of it, so that a store does not depend on where its weights lay.
        family: Key in the table of families.
        model: The name within its family.
        source: Where the weights come from, for people: a hub repository, a package, a path.
        tag: Which of the library's weights for the model ("laion2b_s34b_b79k"); None where the name gives none.
        weights: Local path of the weights, a folder or a file; None where `source` decides.
        note: One line to print where the name could have meant something else.
    """

    name: str
    family: str
    model: str
    source: str
    tag: str | None = None
    weights: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class LoadOptions:
    """How a teacher is loaded, whatever its family.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        precision: "auto", "float32", "bfloat16" or "float16"; see `embedkd.teachers.runner.choose_precision`.
        random_seed: Draw the weights with this seed and read none; None reads them. For dry runs and tests.
        trusted_code: The one repository or folder whose own model code may be run; None runs no such code.
    """

    device: str = "cpu"
    precision: str = "auto"
    random_seed: int | None = None
    trusted_code: str | None = None


@dataclass(frozen=True)
class Backbone:
    """The trainable inside of a teacher, for fine-tuning.

    Attributes:
        module: All weights of the image tower, in float32 on the device.
        features: From pixels [B, 3, H, W] to what a classifier reads, [B, D], with gradient.
        output: Name of the output that `features` computes ("cls", "image", "pooled").
        parts: The tower in order from pixels to features, every parameter in exactly one part: stem, each block,
            and what follows the blocks. Layer-wise learning rates and freezing go by them.
        save: Writes the tower into a folder in the form that its family's loader reads, preprocessing included.
    """

    module: "nn.Module"
    features: "Callable[[Tensor], Tensor]"
    output: str
    parts: "tuple[tuple[nn.Parameter, ...], ...]"
    save: "Callable[[Path], None]"


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

    @property
    def tokenize(self) -> "Callable[[Sequence[str]], Tensor] | None":
        """Captions to int64 [N, T], cut and padded as the library does; None for a teacher without a text tower.

        It pickles without the model.
        """
        ...

    def embed(self, pixels: "Tensor", outputs: "Sequence[str]") -> "dict[str, Tensor]":
        """Run the model on one batch.

        Args:
            pixels: float32 [B, 3, H, W], stacked from `preprocess`. An empty batch is allowed.
            outputs: Names that the spec's `output` knows, without ``text``.

        Returns:
            For each name asked for, float32 [B, D] on the CPU, without gradient.

        Raises:
            TeacherError: An output that this teacher lacks, or pixels of another shape or dtype.
        """
        ...

    def embed_text(self, tokens: "Tensor") -> "Tensor":
        """What the text tower says: the output ``text``.

        Args:
            tokens: int64 [N, T] from `tokenize`. An empty batch is allowed.

        Returns:
            float32 [N, D] on the CPU, without gradient.

        Raises:
            TeacherError: The teacher has no text tower, or tokens of another shape or dtype.
        """
        ...

    def compiled(self) -> "Teacher":
        """The same teacher with its image tower compiled by `torch.compile`; last bits may differ."""
        ...

    @property
    def backbone(self) -> "Backbone | None":
        """What fine-tuning trains; None for a teacher that cannot be trained."""
        ...


def preprocess_for(teacher: Teacher, view: "ViewSpec | None") -> "Callable[[Image], Tensor]":
    """From what is shown of an image to the model's input, float32 [3, H, W]; pickles without the model.

    Args:
        teacher: The teacher.
        view: Whose part of the image is shown; None where it is all of it.

    Raises:
        TeacherError: Its preprocessing cannot be done to a view.
    """
    if view is None:
        return teacher.preprocess
    from embedkd.teachers.squash import Squash  # imports torch

    return Squash(teacher.spec.preprocess)
