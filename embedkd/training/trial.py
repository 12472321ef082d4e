"""A few steps of a run, taken to see what it will cost, and thrown away."""

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedkd.training.memory import Memory, PeakMemory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from embedkd.join import Batch
    from embedkd.training.plan import Plan
    from embedkd.training.saved import StudentCard
    from embedkd.training.state import Learner


@dataclass(frozen=True)
class Trial:
    """What a few steps cost.

    Attributes:
        steps: How many were taken.
        loss: Of the first of them.
        read_s: Seconds in which one process reads, decodes and augments what a step learns from.
        step_s: Seconds of forward, backward and update. Both are medians, the first step left out.
        parameters_bytes: Of the student and of what the losses learn.
        gradients_bytes: Of both.
        optimiser_bytes: Of the optimiser's state.
        average_bytes: Of the moving average of the student.
        activations_bytes: What a forward pass keeps for its backward pass, parameters aside.
        memory: Peak of the process or device, and what was in use before the student was built.
    """

    steps: int
    loss: float
    read_s: float
    step_s: float
    parameters_bytes: int
    gradients_bytes: int
    optimiser_bytes: int
    average_bytes: int
    activations_bytes: int
    memory: Memory

    def left_s(self, steps: int, workers: int) -> float:
        """About how long so many steps take, validation aside: workers read while the student learns.

        >>> trial = Trial(3, 1.0, 0.4, 0.3, 0, 0, 0, 0, 0, Memory("rss", 0, 0))
        >>> round(trial.left_s(10, 0), 3), round(trial.left_s(10, 4), 3)
        (7.0, 3.0)
        """
        each_s = max(self.step_s, self.read_s / workers) if workers else self.step_s + self.read_s
        return steps * each_s


def try_steps(plan: "Plan", steps: int) -> "tuple[Trial, Learner, StudentCard]":
    """Build what a run builds and take its first steps on its own data; nothing is written.

    Args:
        plan: Of one process without workers.
        steps: How many, at least 1; a run that is shorter has fewer.

    Returns:
        The costs, the learner after these steps, and its student's card.

    Raises:
        EmbedKDError: As the run would.
    """
    memory = PeakMemory(plan.device)
    learner, card = plan.build()
    learner.student.train()
    taken, read_s, step_s = iter(plan.division.by_step(plan.training_batches(card, 0), 0)), [], []
    owned = [parameter for part in (learner.student, learner.objective) for parameter in part.parameters()]
    loss, activations_bytes = 0.0, 0
    for at in range(min(steps, plan.budget.steps)):
        began = time.perf_counter()
        batches = next(taken)
        read = time.perf_counter()
        if at == 0:
            loss, activations_bytes = _kept(learner, batches, owned)
        else:
            learner.gradients(*batches)
        learner.update()
        if plan.device.type == "cuda":
            torch.cuda.synchronize(plan.device)
        read_s.append(read - began)
        step_s.append(time.perf_counter() - read)
    state = [entry for values in learner.optimiser.state.values() for entry in values.values()]
    trial = Trial(
        steps=len(step_s),
        loss=loss,
        read_s=statistics.median(read_s[1:] or read_s),
        step_s=statistics.median(step_s[1:] or step_s),
        parameters_bytes=_bytes(owned),
        gradients_bytes=_bytes(p.grad for p in owned if p.grad is not None),
        optimiser_bytes=_bytes(entry for entry in state if isinstance(entry, torch.Tensor)),
        average_bytes=0 if learner.average is None else _bytes(learner.average.parts.parameters()),
        activations_bytes=activations_bytes,
        memory=memory.read(),
    )
    return trial, learner, card


def _kept(learner: "Learner", batches: "Sequence[Batch]", owned: "Iterable[Tensor]") -> tuple[float, int]:
    """The loss of a step, and the bytes that its first forward pass kept for the backward pass, without ``owned``."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in owned}
    kept: dict[int, int] = {}
    backward = False

    def pack(tensor: "Tensor") -> "Tensor":
        storage = tensor.untyped_storage()
        if not backward and storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold on to the graph that holds on to it

    def unpack(tensor: "Tensor") -> "Tensor":
        nonlocal backward
        backward = True
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        loss = learner.gradients(*batches).loss
    return loss, sum(kept.values())


def _bytes(tensors: "Iterable[Tensor]") -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
