"""AdamW and its rate over the steps, both from timm."""

from typing import TYPE_CHECKING

from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from torch.optim import Optimizer


def build_optimiser(
    modules: "Sequence[nn.Module]", *, lr: float, weight_decay: float, betas: tuple[float, float]
) -> "Optimizer":
    """AdamW over all parameters that need a gradient.

    Args:
        modules: Their one-dimensional parameters, and those that a module's ``no_weight_decay()`` names (positions,
            class tokens; timm's convention), are not decayed.
        lr: Learning rate that the schedule scales.
        weight_decay: Decoupled decay of everything else.
        betas: Averaging of gradients and of their squares.
    """
    groups = [
        group
        for module in modules
        for group in param_groups_weight_decay(module, weight_decay, no_weight_decay_list=_not_decayed(module))
    ]
    optimiser: Optimizer = create_optimizer_v2(groups, opt="adamw", lr=lr, weight_decay=weight_decay, betas=betas)
    return optimiser


def _not_decayed(module: "nn.Module") -> "Sequence[str]":
    names = getattr(module, "no_weight_decay", None)
    return tuple(names()) if callable(names) else ()


class Schedule:
    """The learning rate as a pure function of the step, so a checkpoint need not hold it.

    Linear warm-up to the optimiser's rate, then half a cosine down to ``final_lr_ratio`` of it at the last step.

    Args:
        optimiser: Its groups' present rate is the peak.
        steps: Steps of the whole run.
        warmup_steps: Steps in which the rate rises from 0; the last of them has the peak. Never more than half the run.
        final_lr_ratio: Rate of the last step, as a share of the peak.
    """

    def __init__(self, optimiser: "Optimizer", *, steps: int, warmup_steps: int, final_lr_ratio: float) -> None:
        self._optimiser = optimiser
        warmup = min(warmup_steps, steps // 2)
        peak: float = optimiser.param_groups[0]["lr"]
        self._cosine = CosineLRScheduler(
            optimiser,
            t_initial=steps - warmup,
            lr_min=peak * final_lr_ratio,
            warmup_t=warmup,
            warmup_prefix=True,  # the cosine begins after the warm-up, so it reaches its end
            t_in_epochs=False,
        )

    def set_rate(self, step: int) -> float:
        """Set the rate of a step, counted from 1, in every group of the optimiser, and return it."""
        self._cosine.step_update(step)
        rate: float = self._optimiser.param_groups[0]["lr"]
        return rate
