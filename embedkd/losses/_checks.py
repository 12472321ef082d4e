"""Checks at the door of every loss. They read shapes and dtypes alone, so they never wait for a GPU."""

import math
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import torch

from embedkd.errors import LossError

if TYPE_CHECKING:
    from torch import Tensor

Reduction: TypeAlias = Literal["mean", "sum", "none"]

_ADVICE: Final = {
    "B": "pass one row for each sample",
    "C": "pass the classes of one data set",
    "D": "project one to the width of the other",
}


def check_tensors(loss: str, **tensors: "Tensor | None") -> None:
    """Compare tensors with the shapes that their names end in, and with one another.

    Args:
        loss: Name of the loss, for the message.
        **tensors: ``student_BD`` has two dimensions, B and D. A letter stands for one size in all of them; the first
            that has it sets it. ``labels_*`` are int64, all others floating point; None is passed over.

    Raises:
        LossError: A tensor has another shape or dtype.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, tensor in tensors.items():
        if tensor is not None:
            _check_dtype(loss, name, tensor)
            _check_shape(loss, name, tensor, sizes)


def _check_dtype(loss: str, name: str, tensor: "Tensor") -> None:
    if name.startswith("labels"):
        fits, expected = tensor.dtype == torch.int64, "int64"
    else:
        fits, expected = tensor.is_floating_point(), "floating point"
    if not fits:
        raise LossError(f"losses.{loss}: expected {name} of {expected}, got {tensor.dtype}; convert it before the loss")


def _check_shape(loss: str, name: str, tensor: "Tensor", sizes: dict[str, tuple[int, str]]) -> None:
    dims = name.rpartition("_")[2]
    shape, wanted = list(tensor.shape), f"losses.{loss}: expected {name} [{', '.join(dims)}]"
    if len(shape) != len(dims) or 0 in shape:
        raise LossError(f"{wanted} with every size at least 1, got {shape}")
    for dim, size in zip(dims, shape, strict=True):
        expected, holder = sizes.setdefault(dim, (size, name))
        if size != expected:
            raise LossError(f"{wanted} with {dim} = {expected} as {holder}, got {shape}; {_ADVICE[dim]}")


def check_temperature(loss: str, temperature: float) -> None:
    """Refuse a temperature that cosines cannot be divided by.

    Raises:
        LossError: It is not a finite number above 0.
    """
    if not 0 < temperature < math.inf:
        raise LossError(f"losses.{loss}: expected a temperature above 0, got {temperature}; 0.1 is usual")
