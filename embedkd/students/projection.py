"""The learnable bridge between a student's width and its teacher's."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from embedkd.errors import ConfigError
from embedkd.seeding import stream_seed

if TYPE_CHECKING:
    from torch import Tensor


class Projection(nn.Module):
    """A linear layer with bias; where both widths are equal, the identity, without parameters.

    The initial weights are a function of the arguments alone, so every rank starts with the same ones. They keep the
    scale of rows, and the bias starts at zero, so the angles between targets are not lost to a shift that all share.

    Args:
        in_dim: Width of the rows that come in.
        out_dim: Width of the rows that go out.
        seed: All that the initial weights depend on, beside the widths.

    Raises:
        ConfigError: A width is below 1.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, in_dim: int, out_dim: int, *, seed: int) -> None:
        super().__init__()
        if min(in_dim, out_dim) < 1:
            raise ConfigError(f"projection: expected widths of at least 1, got {in_dim} to {out_dim}")
        self.in_dim, self.out_dim = in_dim, out_dim
        if in_dim == out_dim:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
            return
        draw = torch.Generator("cpu").manual_seed(stream_seed(seed, "projection", in_dim, out_dim))
        weight = torch.empty(out_dim, in_dim, device="cpu")
        nn.init.kaiming_uniform_(weight, nonlinearity="linear", generator=draw)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(out_dim, device="cpu"))

    def forward(self, rows: "Tensor") -> "Tensor":
        """Project rows [..., in_dim] to [..., out_dim].

        Raises:
            ConfigError: Rows of another width.
        """
        if rows.shape[-1] != self.in_dim:
            raise ConfigError(f"projection: expected rows of width {self.in_dim}, got {list(rows.shape)}")
        return rows if self.weight is None else F.linear(rows, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Widths, for ``print``."""
        return f"{self.in_dim}, {self.out_dim}" + (", identity" if self.weight is None else "")
