"""What ``embedkd train`` does, from a config to a finished run folder."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkd.errors import CheckpointError
from embedkd.progress import Progress, Silent
from embedkd.rundir import MetricsLog, RunDir, result_from, write_json
from embedkd.training.checkpoint import Checkpoint, read_checkpoint
from embedkd.training.device import device_name
from embedkd.training.loop import fit
from embedkd.training.memory import PeakMemory
from embedkd.training.plan import Plan
from embedkd.training.recorder import Recorder
from embedkd.training.saved import load_student
from embedkd.training.signals import stop_wish
from embedkd.training.validation import accuracy

if TYPE_CHECKING:
    from embedkd.config import Config
    from embedkd.training.state import Position


@dataclass(frozen=True)
class TrainResult:
    """result.json: what came of a run.

    Attributes:
        student: Name of the student.
        parameters: How many it has.
        losses: Active losses and their weights.
        teacher: The teacher whose targets were used; None without one.
        view_mismatch: Losses that compared a moved view with what the teacher said of the plain one.
        left_out: Training samples that could not be used, by reason.
        epochs: Epochs trained.
        steps: Steps trained.
        train_rows: Training samples an epoch.
        best_epoch: Epoch of the kept student, from 1: the best on the validation split; the last without such a split.
        val_top1: Its share of right answers on the validation split; None without one.
        test_top1: Its share on the test split, looked at once, at the end; None without one.
        test_rows: Labelled samples of the test split.
        elapsed_s: Wall time of training and validation, over all parts of the run.
        memory: Of the part of the run that took most: kind, start_bytes, peak_bytes, net_bytes.
        device: What it ran on.
        precision: Of the forward pass.
        workers: Processes that read and decoded.
        multiply_adds: Of the student's matrix products and convolutions for one image.
    """

    student: str
    parameters: int
    losses: dict[str, float]
    teacher: str | None
    view_mismatch: list[str]
    left_out: dict[str, int]
    epochs: int
    steps: int
    train_rows: int
    best_epoch: int
    val_top1: float | None
    test_top1: float | None
    test_rows: int
    elapsed_s: float
    memory: dict[str, Any]
    device: str
    precision: str
    workers: int
    multiply_adds: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for people."""
        shares = {"validation": self.val_top1, "test": self.test_top1}
        known = ", ".join(f"{split} {share:.1%}" for split, share in shares.items() if share is not None)
        when = f"after epoch {self.best_epoch} of {self.epochs}, {self.elapsed_s:.0f} s"
        return f"{self.student}: top-1 {known or 'not measured'} {when}"


def train(config: "Config", *, resume: bool = False, progress: Progress | None = None) -> TrainResult:
    """Train a student and leave a run folder.

    Args:
        config: Its sections ``data``, ``student``, ``train``, ``optimiser``, ``augment``, ``losses``.
        resume: Go on with the run in ``train.out``; a finished one is left as it is and its result given.
        progress: Who watches.

    Raises:
        ConfigError: A name or value of the config cannot be used.
        TrainingError: The folder holds another run, there is nothing to learn from, or a loss is not finite.
        SourceError: A shard or an image cannot be used.
        StoreError: The store cannot be trusted.
        JoinError: Store and shards do not belong together.
        Interrupted: SIGINT or SIGTERM; a checkpoint was written, and ``resume`` goes on from it.
    """
    watch, run = progress or Silent(), RunDir(Path(config.train.out))
    run.check(config, resume=resume)
    finished = run.read_result()
    if finished is not None:
        watch.line(f"{run.path} is finished already; name another folder with --out to train again")
        return result_from(TrainResult, finished, run.result)
    plan = Plan.of(config)
    for reason, rows in plan.data.train.left_out.items():
        watch.line(f"{rows} training samples are left out: {reason}")
    if plan.view_mismatch:
        watch.line(f"{', '.join(plan.view_mismatch)}: the student sees moved views, the teacher saw none (allowed)")
    if plan.data.val is None:
        watch.line("there is no validation split: the last epoch's student is kept")
    position = _fit(plan, run, watch)
    result = _result(plan, run, position)
    write_json(run.result, result.to_json())
    return result


def _fit(plan: Plan, run: RunDir, watch: Progress) -> "Position":
    memory = PeakMemory(plan.device)
    learner, card = plan.build()
    checkpoint = _read_checkpoint(run, plan)
    if checkpoint is not None:
        checkpoint.restore(learner)
    run.claim(plan.config)
    keep_bytes = checkpoint.metrics_bytes if checkpoint is not None else 0
    watch.line(f"note: {card.name} has {card.cost}")
    if card.begun_from is not None:
        watch.line(f"note: {card.name} begins with the weights of {card.begun_from}")
    watch.begin(f"train {card.name}", plan.budget.steps - learner.position.step, "steps")
    try:
        with MetricsLog(run.metrics, keep_bytes=keep_bytes) as log, stop_wish() as stop:
            recorder = Recorder(
                run,
                log,
                card,
                data=plan.data.identity,
                memory=memory,
                progress=watch,
                every_steps=plan.config.train.log_every_steps,
                position=learner.position,
            )
            batches = plan.training_batches(card, learner.position.step)
            fit(learner, batches, plan.held_out_batches(card, plan.data.val), plan.budget, recorder, stop)
    finally:
        watch.end()
    return learner.position


def _read_checkpoint(run: RunDir, plan: Plan) -> Checkpoint | None:
    """The state to go on from, after a look whether the data is still the same; None at the beginning of a run."""
    if not run.checkpoint.exists():
        return None
    checkpoint = read_checkpoint(run.checkpoint)
    theirs, ours = checkpoint.data, plan.data.identity
    changed = [part for part in sorted({*theirs, *ours}) if theirs.get(part) != ours.get(part)]
    if changed:
        raise CheckpointError(
            f"{run.path} was trained on other data (changed: {', '.join(changed)}); "
            "go on with the data it began with, or name another folder with --out"
        )
    return checkpoint


def _result(plan: Plan, run: RunDir, position: "Position") -> TrainResult:
    student, card = load_student(run)
    test = plan.held_out_batches(card, plan.data.test)
    found = None if test is None else accuracy(student.to(plan.device), test, plan.device)
    memory = position.memory
    return TrainResult(
        student=card.name,
        parameters=card.parameters,
        losses={term.name: term.weight for term in plan.terms},
        teacher=plan.data.teacher_name,
        view_mismatch=list(plan.view_mismatch),
        left_out=dict(plan.data.train.left_out),
        epochs=plan.budget.epochs,
        steps=position.step,
        train_rows=plan.data.train.rows,
        best_epoch=card.epoch,
        val_top1=card.val_top1,
        test_top1=None if found is None else found.top1,
        test_rows=0 if found is None else found.rows,
        elapsed_s=round(position.elapsed_s, 3),
        memory={} if memory is None else {**asdict(memory), "net_bytes": memory.net_bytes},
        device=device_name(plan.device),
        precision=plan.precision,
        workers=plan.workers,
        multiply_adds=card.multiply_adds,
    )
