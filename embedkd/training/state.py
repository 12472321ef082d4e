"""All that changes while a student learns, and one step of it."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from embedkd.seeding import stream_seed
from embedkd.training.distributed import ALONE
from embedkd.training.division import Share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.optim import Optimizer

    from embedkd.join import Batch
    from embedkd.students import Student
    from embedkd.training.average import MovingAverage
    from embedkd.training.division import Division
    from embedkd.training.lesson import Lesson
    from embedkd.training.memory import Memory
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
    """What one step measured, all on the samples it learned from.

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
        lesson: The student and its losses.
        optimiser: Over the parameters of both.
        schedule: Its rate.
        clip_grad_norm: Greatest global L2 norm of a step's gradients; 0 clips nothing.
        seed: Of the run.
        division: How a step is divided into forward passes and over ranks; None for one pass of one process.
        average: Of all weights over the steps, judged in their place; None for none.
    """

    def __init__(
        self,
        lesson: "Lesson",
        optimiser: "Optimizer",
        schedule: "Schedule",
        *,
        clip_grad_norm: float,
        seed: int,
        division: "Division | None" = None,
        average: "MovingAverage | None" = None,
    ) -> None:
        self.student = lesson.student
        self.objective = lesson.objective
        self.optimiser = optimiser
        self.average = average
        self.position = Position()
        self.device = lesson.device
        self.ranks = ALONE if division is None else division.ranks
        self._lesson = lesson
        self._taught = self.ranks.parallel(lesson)
        self._learned = lesson.learned
        self._schedule = schedule
        self._max_norm = clip_grad_norm or math.inf
        self._seed = seed
        self._division = division
        self._statistics = _statistics_of_batches(lesson.student)

    @property
    def judged(self) -> "Student":
        """What validation looks at and the run keeps: the average where there is one."""
        return self.student if self.average is None else self.average.student

    @property
    def fitting(self) -> nn.Module:
        """What the losses learned, as it fits the judged student."""
        return self.objective if self.average is None else self.average.objective

    def gradients(self, *batches: "Batch") -> StepValues:
        """Forward and backward of the next step; `update` then takes it.

        Each batch is a forward pass of its own, in which losses over the batch see its samples alone; gradients add up
        to those of the mean over all samples of the step, of all ranks. What is random in a model (drop path) is a
        function of the seed, the step and the rank, so a resumed run draws the same without any generator's state in
        its checkpoint.
        """
        step = self.position.step + 1
        lr = self._schedule.set_rate(step)
        shares = self._shares(batches)
        whole = sum(sum(share.counts) for share in shares)
        self.optimiser.zero_grad(set_to_none=True)
        sums: list[Tensor] = []
        names: tuple[str, ...] = ()
        for part, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            torch.manual_seed(stream_seed(self._seed, "step", step, share.rank, part))
            with self._averaging(now=part == len(batches) - 1):
                total, terms = self._taught(self._lesson.prepared(batch), share, step, part)
                weight = share.counts[share.rank] / whole
                (total * (weight * self.ranks.size)).backward()  # ranks are averaged, whatever they have
            names = tuple(terms)
            sums.append(torch.stack([total.detach(), *terms.values()]) * weight)
        norm = nn.utils.clip_grad_norm_(self._learned, self._max_norm)
        values = self.ranks.total(torch.stack(sums).sum(dim=0))
        # One look at the device for all of them.
        grad_norm, loss, *rest = torch.cat([norm.detach()[None], values]).tolist()
        return StepValues(loss, dict(zip(names, rest, strict=True)), grad_norm, lr)

    def update(self) -> None:
        """Change the parameters by the gradients."""
        self.optimiser.step()
        self.position.step += 1
        self.ranks.mean_(self._statistics)
        if self.average is not None:
            self.average.update(self.position.step)

    def keys(self, batches: "Sequence[Batch]") -> list[str]:
        """Of all samples of a step that count, on all ranks; all of them must ask."""
        own = [key for batch in batches for key, counts in zip(batch.keys, batch.valid.tolist(), strict=True) if counts]
        return [key for keys in self.ranks.listed(own) for key in keys]

    def _shares(self, batches: "Sequence[Batch]") -> tuple[Share, ...]:
        if self._division is not None:
            return self._division.parts(self.position.step)
        return tuple(Share((int(batch.valid.sum()),)) for batch in batches)

    def _averaging(self, *, now: bool) -> AbstractContextManager[object]:
        """Gradients are averaged over ranks once a step, with those of its last part."""
        taught = self._taught
        return nullcontext() if now or not isinstance(taught, DistributedDataParallel) else taught.no_sync()


def _statistics_of_batches(student: nn.Module) -> "list[Tensor]":
    """Running statistics that each rank draws from its own samples."""
    norms = (m for m in student.modules() if isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm))
    return [buffer for norm in norms for buffer in norm.buffers()]
