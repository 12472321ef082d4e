"""Checks at the door of every loss. They read shapes and dtypes alone, so they never wait for a GPU."""

import math
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import torch

from embedkd.errors import LossError

if TYPE_CHECKING:
    from torch import Tensor

Reduction: TypeAlias = Literal["mean", "sum", "none"]

_WHOLE: Final = ("labels", "own")  # names that begin so are whole numbers
_ADVICE: Final = {
    "B": "pass one row for each sample",
    "N": "pass one row for each candidate",
    "C": "pass the classes of one data set",
    "D": "project one to the width of the other",
    "E": "pass the parts of one layer",
}


def check_tensors(loss: str, **tensors: "Tensor | None") -> None:
    """Compare tensors with the shapes that their names end in, and with one another.

    Args:
        loss: Name of the loss, for the message.
        **tensors: ``student_BD`` has two dimensions, B and D. A letter stands for one size in all of them; the first
            that has it sets it. A name without capitals is one number, []. ``labels_*`` and ``own_*`` are int64, all
            others floating point; None is passed over.

    Raises:
        LossError: A tensor has another shape or dtype.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, tensor in tensors.items():
        if tensor is not None:
            _check_dtype(loss, name, tensor)
            _check_shape(loss, name, tensor, sizes)


def _check_dtype(loss: str, name: str, tensor: "Tensor") -> None:
    if name.startswith(_WHOLE):
        fits, expected = tensor.dtype == torch.int64, "int64"
    else:
        fits, expected = tensor.is_floating_point(), "floating point"
    if not fits:
        raise LossError(f"losses.{loss}: expected {name} of {expected}, got {tensor.dtype}; convert it before the loss")


def _check_shape(loss: str, name: str, tensor: "Tensor", sizes: dict[str, tuple[int, str]]) -> None:
    last = name.rpartition("_")[2]
    dims = last if last.isupper() else ""
    shape, wanted = list(tensor.shape), f"losses.{loss}: expected {name} [{', '.join(dims)}]"
    if len(shape) != len(dims) or 0 in shape:
        raise LossError(f"{wanted}{' with every size at least 1' if dims else ''}, got {shape}")
    for dim, size in zip(dims, shape, strict=True):
        expected, holder = sizes.setdefault(dim, (size, name))
        if size != expected:
            raise LossError(f"{wanted} with {dim} = {expected} as {holder}, got {shape}; {_ADVICE[dim]}")


def check_positive(loss: str, option: str, value: float, usual: str) -> None:
    """Refuse a temperature, a scale or the like that nothing can be divided or multiplied by.

    Args:
        loss: Name of the loss, for the message.
        option: Name of the option.
        value: What it is.
        usual: A usual value, for the message.

    Raises:
        LossError: It is not a finite number above 0.
    """
    if not 0 < value < math.inf:
        raise LossError(f"losses.{loss}: expected a {option} above 0, got {value}; {usual} is usual")


def label_error(loss: str, labels_B: "Tensor", classes: int) -> LossError:
    """What to say of labels outside 0..C-1."""
    return LossError(
        f"losses.{loss}: expected labels from 0 to {classes - 1}, got {int(labels_B.min())} to {int(labels_B.max())}; "
        "compare the data's class names with the student's"
    )
