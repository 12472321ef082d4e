"""Optimisers and their rates over the steps, all from timm."""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, PolyLRScheduler, StepLRScheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timm.scheduler.scheduler import Scheduler
    from torch import nn
    from torch.optim import Optimizer

OptimiserName: TypeAlias = Literal["adamw", "sgd", "lamb"]
ScheduleName: TypeAlias = Literal["cosine", "linear", "step", "constant"]


def build_optimiser(
    modules: "Sequence[nn.Module]",
    *,
    name: OptimiserName = "adamw",
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.9,
    nesterov: bool = True,
) -> "Optimizer":
    """An optimiser over all parameters that need a gradient.

    Args:
        modules: Their one-dimensional parameters, and those that a module's ``no_weight_decay()`` names (positions,
            class tokens; timm's convention), are not decayed.
        name: Of the optimiser.
        lr: Learning rate that the schedule scales.
        weight_decay: Of everything else; decoupled for AdamW.
        betas: Averaging of gradients and of their squares, for AdamW and LAMB.
        momentum: Share of the last step that SGD keeps.
        nesterov: Whether SGD looks ahead along it.
    """
    groups = [
        group
        for module in modules
        for group in param_groups_weight_decay(module, weight_decay, no_weight_decay_list=_not_decayed(module))
    ]
    own: dict[OptimiserName, dict[str, Any]] = {
        "adamw": {"betas": betas},
        "sgd": {"momentum": momentum, "nesterov": nesterov and momentum > 0},
        "lamb": {"betas": betas, "max_grad_norm": None},  # it would clip once more
    }
    optimiser: Optimizer = create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=weight_decay, **own[name])
    return optimiser


def _not_decayed(module: "nn.Module") -> "Sequence[str]":
    names = getattr(module, "no_weight_decay", None)
    return tuple(names()) if callable(names) else ()


class Schedule:
    """The learning rate as a pure function of the step, so a checkpoint need not hold it.

    Linear warm-up to the optimiser's rate, then by name: "cosine" and "linear" go down to ``final_lr_ratio`` of it at
    the last step, "step" multiplies it by ``decay_rate`` after each ``decay_steps`` steps, "constant" keeps it.

    Args:
        optimiser: Its groups' present rate is the peak.
        steps: Steps of the whole run.
        warmup_steps: Steps in which the rate rises from 0; the last of them has the peak. Never more than half the run.
        name: How it goes on.
        final_lr_ratio: Rate of the last step, as a share of the peak.
        decay_steps: Steps between drops.
        decay_rate: What a drop leaves.
    """

    def __init__(
        self,
        optimiser: "Optimizer",
        *,
        steps: int,
        warmup_steps: int,
        name: ScheduleName = "cosine",
        final_lr_ratio: float = 0.01,
        decay_steps: int = 1,
        decay_rate: float = 0.1,
    ) -> None:
        self._optimiser = optimiser
        self._warmup = min(warmup_steps, steps // 2)
        self._drops = name == "step"
        after = steps - self._warmup
        lowest: float = optimiser.param_groups[0]["lr"] * final_lr_ratio
        shared: dict[str, Any] = {
            "warmup_t": self._warmup,
            "warmup_prefix": True,  # what follows begins after the warm-up, so it reaches its end
            "t_in_epochs": False,
        }
        self._scheduler: Scheduler
        if name == "cosine":
            self._scheduler = CosineLRScheduler(optimiser, t_initial=after, lr_min=lowest, **shared)
        elif name == "linear":
            self._scheduler = PolyLRScheduler(optimiser, power=1.0, t_initial=after, lr_min=lowest, **shared)
        else:
            rate = decay_rate if self._drops else 1.0
            self._scheduler = StepLRScheduler(optimiser, decay_t=decay_steps, decay_rate=rate, **shared)

    def set_rate(self, step: int) -> float:
        """Set the rate of a step, counted from 1, in every group of the optimiser, and return it."""
        # A drop comes after the last of its steps; timm counts from 0.
        self._scheduler.step_update(step - 1 if self._drops and step > self._warmup else step)
        rate: float = self._optimiser.param_groups[0]["lr"]
        return rate
