"""The weighted sum of named losses. A loss of weight 0 is left out before anyone computes it."""

import math
from typing import TYPE_CHECKING

import torch

from embedkd.errors import ConfigError, LossError, UnknownNameError
from embedkd.losses.catalogue import LOSSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def active_weights(weights: "Mapping[str, float]") -> dict[str, float]:
    """The losses that must be computed: those with a weight above 0, in the order given.

    Behind ``@`` a name may say which of several teachers the loss compares with.

    >>> active_weights({"cross_entropy": 0.5, "mse": 0, "class_contrastive": 0.5})
    {'cross_entropy': 0.5, 'class_contrastive': 0.5}

    Raises:
        UnknownNameError: There is no such loss.
        ConfigError: A weight is negative or not finite, or none is above 0.
    """
    for name, weight in weights.items():
        if name.partition("@")[0] not in LOSSES:
            raise UnknownNameError("loss", name.partition("@")[0], LOSSES)
        if not 0 <= weight < math.inf:
            raise ConfigError(f"losses.{name}: expected a weight of at least 0, got {weight}")
    active = {name: float(weight) for name, weight in weights.items() if weight}
    if not active:
        raise ConfigError(f"losses: expected a loss with a weight above 0, got {dict(weights)}")
    return active


def weighted_sum(
    values: "Mapping[str, Tensor]", weights: "Mapping[str, float]", *, check_finite: bool = False
) -> "Tensor":
    """The sum of weight times value, in the order of the weights.

    >>> import torch
    >>> weighted_sum({"mse": torch.tensor(4.0), "cosine": torch.tensor(1.0)}, {"mse": 0.25, "cosine": 2.0})
    tensor(3.)

    Args:
        values: Of exactly the losses that ``active_weights`` names, all of one shape: [] or, unreduced, [B].
        weights: As ``active_weights`` takes them.
        check_finite: Look at the total, which makes the host wait for the device: once a step is enough.

    Returns:
        The total, of the values' shape.

    Raises:
        LossError: A value is missing, too many, of another shape than the others, or (only if asked) not finite.
        UnknownNameError: See ``active_weights``.
        ConfigError: See ``active_weights``.
    """
    active = active_weights(weights)
    _check_values(values, active)
    terms = [weight * values[name] for name, weight in active.items()]
    total = torch.stack(terms).sum(dim=0)
    if check_finite and not total.isfinite().all():
        raise LossError(f"losses: the total is not finite; {_describe(values)}; a lower learning rate often helps")
    return total


def _check_values(values: "Mapping[str, Tensor]", active: "Mapping[str, float]") -> None:
    if values.keys() != active.keys():
        raise LossError(f"losses: expected the values of {', '.join(active)}, got {', '.join(values) or 'none'}")
    if len({value.shape for value in values.values()}) > 1:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in values.items())
        raise LossError(f"losses: expected values of one shape, got {shapes}; use one reduction for all")


def _describe(values: "Mapping[str, Tensor]") -> str:
    return ", ".join(f"{name} {value.detach().double().mean().item():.4g}" for name, value in values.items())
