"""How much a model computes."""

from typing import TYPE_CHECKING, Any

import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from torch import Tensor, nn


def multiply_adds(module: "nn.Module", inputs: "Tensor") -> int:
    """Multiply-adds of a forward pass: one for each product in matrix products, convolutions and attention.

    Norms, activations and additions are left out, as in the tables of most papers. On the meta device it costs no
    arithmetic.

    Args:
        module: In the mode in which it is to be counted; its parameters and generators are left as they are.
        inputs: Its argument, on the same device.

    >>> multiply_adds(torch.nn.Linear(3, 5), torch.zeros(2, 3))
    30
    """
    # Without gradients: the counter follows modules by hooks on tensors that need one, and some of them fail there.
    state: dict[str, Any] = {name: parameter.detach() for name, parameter in module.named_parameters()}
    # Fused attention is one operation; in its plain form each matrix product is counted as such on every device.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        functional_call(module, state, (inputs,))
    return int(counter.get_total_flops()) // 2
