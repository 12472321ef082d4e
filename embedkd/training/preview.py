"""``embedkd train --dry-run``: what a run will do, before it does it. Nothing is written."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkd.errors import ConfigError
from embedkd.progress import Progress, Silent
from embedkd.rundir import RunDir
from embedkd.training.device import device_name
from embedkd.training.distributed import Ranks
from embedkd.training.logs import require_logs
from embedkd.training.objective import TermLoss
from embedkd.training.plan import Plan, as_begun
from embedkd.training.reading import shard_bytes, target_bytes
from embedkd.training.trial import Trial, try_steps

if TYPE_CHECKING:
    from embedkd.config import Config
    from embedkd.training.objective import Objective
    from embedkd.training.terms import Term

_STEPS = 3


@dataclass(frozen=True)
class PlannedLoss:
    """One loss of a run.

    Attributes:
        name: In the table of losses.
        weight: In the sum.
        compares: What the student is compared with.
        projection: Width of its input and output; None where there is none.
        parameters: How many numbers the loss learns.
    """

    name: str
    weight: float
    compares: str
    projection: tuple[int, int] | None
    parameters: int


@dataclass(frozen=True)
class Preview:
    """What a run will do.

    Attributes:
        train_rows: Samples to learn from, an epoch.
        val_rows: Samples that choose the best student; 0 where there are none.
        test_rows: Samples that the best student is reported on.
        left_out: Samples that cannot be used, by reason.
        notes: What else to know of the data.
        epochs: Passes over the training samples.
        steps_per_epoch: Updates a pass.
        steps: Updates of the whole run.
        batch_size: Samples a step.
        shard_bytes: Read of the shards, an epoch of training.
        target_bytes: Read of the stores, an epoch of training in one process.
        student: Its name.
        parameters: How many it has.
        multiply_adds: Of one image.
        losses: The active losses.
        view_mismatch: Losses that compare a moved view with what the teacher said of the plain one.
        device: What it runs on.
        precision: Of the forward pass.
        workers: Processes that read and decode.
        trial: What the first steps cost.
        about_s: About how long the training steps take.
    """

    train_rows: int
    val_rows: int
    test_rows: int
    left_out: dict[str, int]
    notes: tuple[str, ...]
    epochs: int
    steps_per_epoch: int
    steps: int
    batch_size: int
    shard_bytes: int
    target_bytes: int
    student: str
    parameters: int
    multiply_adds: int
    losses: tuple[PlannedLoss, ...]
    view_mismatch: tuple[str, ...]
    device: str
    precision: str
    workers: int
    trial: Trial
    about_s: float

    @property
    def all_bytes(self) -> int:
        """Read by the whole run; each worker reads the stored rows itself."""
        return self.epochs * (self.shard_bytes + max(1, self.workers) * self.target_bytes)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "all_bytes": self.all_bytes}


def preview(config: "Config", *, resume: bool = False, progress: Progress | None = None) -> Preview:
    """Find and check everything as a run would, take its first steps in memory, and write nothing.

    Args:
        config: As for `train`.
        resume: Whether the run folder may hold a run; the plan is of all of it.
        progress: Who watches.

    Raises:
        EmbedKDError: What the run would raise before its first steps or in them.
    """
    watch = progress or Silent()
    for wanted, remedy in (
        (Ranks.from_environment().several, "start it without torchrun"),
        (config.train.online_teacher, "leave out --online-teacher"),
    ):
        if wanted:
            raise ConfigError(f"--dry-run plans a run of one process from stored targets; {remedy}")
    run = RunDir(Path(config.train.out))
    run.check(config, resume=resume)
    require_logs(config.train.logs)
    plan = Plan.of(as_begun(config, run))
    data, budget = plan.data, plan.budget
    watch.line(f"taking {min(_STEPS, budget.steps)} steps to see what they cost; nothing is written")
    trial, learner, card = try_steps(replace(plan, workers=0), _STEPS)
    return Preview(
        train_rows=data.train.rows,
        val_rows=0 if data.val is None else data.val.rows,
        test_rows=0 if data.test is None else data.test.rows,
        left_out=dict(data.train.left_out),
        notes=data.notes,
        epochs=budget.epochs,
        steps_per_epoch=budget.steps_per_epoch,
        steps=budget.steps,
        batch_size=config.train.global_batch_size,
        shard_bytes=shard_bytes(data.train),
        target_bytes=target_bytes(data.train),
        student=card.name,
        parameters=card.parameters,
        multiply_adds=card.multiply_adds,
        losses=tuple(_planned(plan, term, learner.objective) for term in plan.terms),
        view_mismatch=plan.view_mismatch,
        device=device_name(plan.device),
        precision=plan.precision,
        workers=plan.workers,
        trial=trial,
        about_s=trial.left_s(budget.steps, plan.workers),
    )


def _planned(plan: Plan, term: "Term", objective: "Objective") -> PlannedLoss:
    loss = objective.losses[term.name]
    assert isinstance(loss, TermLoss)
    bridge = loss.projection
    return PlannedLoss(
        name=term.name,
        weight=term.weight,
        compares=_compared(plan, term),
        projection=None if bridge is None or bridge.in_dim == bridge.out_dim else (bridge.in_dim, bridge.out_dim),
        parameters=sum(parameter.numel() for parameter in loss.parameters()),
    )


def _compared(plan: Plan, term: "Term") -> str:
    targets = plan.data.targets.get(term.name)
    if targets is None:
        return "labels"
    averaged = [name.rpartition(":")[0] for name in targets.rows]  # of an ensemble; else there is one teacher
    teachers = averaged or [term.teacher or plan.data.teachers[0].name]
    sides = [] if targets.output is None else [f"rows of {targets.output}"]
    if targets.classes is not None:
        sides.append(f"{len(targets.classes)} classes of {targets.class_output}")
    return f"{' with '.join(sides)} ({targets.dim} wide) of {' and '.join(teachers)}"
