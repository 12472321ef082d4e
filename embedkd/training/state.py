"""All that changes while a student learns, and one step of it."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from embedkd.seeding import stream_seed
from embedkd.training.device import Precision, autocast

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from embedkd.join import Batch
    from embedkd.students import Student
    from embedkd.training.memory import Memory
    from embedkd.training.objective import Objective
    from embedkd.training.optim import Schedule


@dataclass
class Position:
    """How far a run is; with the parameters and the optimiser this is all that a checkpoint holds.

    Attributes:
        step: Steps done.
        epochs_ended: Epochs whose end (validation, checkpoint) was done; behind the last step's epoch in between.
        best_top1: Best share of right answers on the validation split so far.
        best_epoch: The epoch that had it, counted from 1.
        elapsed_s: Seconds of training and validation, over all parts of the run.
        memory: Of the part of the run that took most.
    """

    step: int = 0
    epochs_ended: int = 0
    best_top1: float | None = None
    best_epoch: int | None = None
    elapsed_s: float = 0.0
    memory: "Memory | None" = None


@dataclass(frozen=True)
class StepValues:
    """What one step measured, all on the batch it learned from.

    Attributes:
        loss: The weighted sum.
        terms: Name of each active loss to its value, before its weight.
        grad_norm: Global L2 norm of the gradients before clipping.
        lr: Learning rate.
    """

    loss: float
    terms: dict[str, float]
    grad_norm: float
    lr: float

    @property
    def finite(self) -> bool:
        """Whether the parameters may be changed by it."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Learner:
    """A student with what it learns by.

    Args:
        student: The model.
        objective: The weighted losses, with their projections.
        optimiser: Over the parameters of both.
        schedule: Its rate.
        device: Where both lie.
        precision: Of the forward pass.
        clip_grad_norm: Greatest global L2 norm of a step's gradients; 0 clips nothing.
        seed: Of the run.
    """

    def __init__(
        self,
        student: "Student",
        objective: "Objective",
        optimiser: "Optimizer",
        schedule: "Schedule",
        *,
        device: torch.device,
        precision: Precision,
        clip_grad_norm: float,
        seed: int,
    ) -> None:
        self.student = student
        self.objective = objective
        self.optimiser = optimiser
        self.position = Position()
        self.device = device
        self._schedule = schedule
        self._precision = precision
        self._max_norm = clip_grad_norm or math.inf
        self._parameters = [p for p in (*student.parameters(), *objective.parameters()) if p.requires_grad]
        self._seed = seed

    def gradients(self, batch: "Batch") -> StepValues:
        """Forward and backward of the next step; `update` then takes it.

        What is random in a model (drop path) is a function of the seed and the step, so a resumed run draws the same
        without any generator's state in its checkpoint.
        """
        step = self.position.step + 1
        torch.manual_seed(stream_seed(self._seed, "step", step))
        lr = self._schedule.set_rate(step)
        batch = without_padding(batch)
        self.objective.check_labels(batch.keys, batch.labels)
        batch = batch.to(self.device)
        with autocast(self.device, self._precision):
            answer = self.student(batch.pixels)
        total, terms = self.objective(answer, batch.labels, batch.targets)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        # One look at the device for all of them.
        loss, grad_norm, *values = torch.stack([total.detach(), norm.detach(), *terms.values()]).tolist()
        return StepValues(loss, dict(zip(terms, values, strict=True)), grad_norm, lr)

    def update(self) -> None:
        """Change the parameters by the gradients."""
        self.optimiser.step()
        self.position.step += 1


def without_padding(batch: "Batch") -> "Batch":
    """The samples of a batch that count; it must lie on the CPU, where a look costs nothing."""
    if bool(batch.valid.all()):
        return batch
    kept = batch.valid.nonzero().flatten()
    return replace(
        batch,
        keys=tuple(batch.keys[at] for at in kept.tolist()),
        pixels=batch.pixels[kept],
        labels=batch.labels[kept],
        targets={output: rows[kept] for output, rows in batch.targets.items()},
        valid=batch.valid[kept],
    )
