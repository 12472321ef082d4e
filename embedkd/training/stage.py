"""What ``embedkd train`` does, from a config to a finished run folder."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedkd.allocator import tune_allocator
from embedkd.errors import CheckpointError, ConfigError
from embedkd.progress import Progress, Silent
from embedkd.rundir import RunDir, result_from, write_json
from embedkd.training.checkpoint import Checkpoint, read_checkpoint
from embedkd.training.device import device_name
from embedkd.training.distributed import Ranks, joined
from embedkd.training.logs import open_logs, require_logs
from embedkd.training.loop import fit
from embedkd.training.memory import PeakMemory
from embedkd.training.plan import Plan, as_begun
from embedkd.training.recorder import Onlooker, Recorder
from embedkd.training.saved import load_student
from embedkd.training.signals import stop_wish
from embedkd.training.validation import accuracy

if TYPE_CHECKING:
    from embedkd.config import Config
    from embedkd.training.live import LiveMaker
    from embedkd.training.state import Position


@dataclass(frozen=True)
class TrainResult:
    """result.json: what came of a run.

    Attributes:
        student: Name of the student.
        parameters: How many it has.
        losses: Active losses and their weights.
        teacher: The teachers whose targets were used, with commas between; None without any.
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
        online_teacher: Whether the teacher ran in every step, in place of its stored rows.
        data: Part of what was learned from to a digest of it, as in `TrainingData.identity`.
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
    online_teacher: bool = False
    data: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for people."""
        shares = {"validation": self.val_top1, "test": self.test_top1}
        known = ", ".join(f"{split} {share:.1%}" for split, share in shares.items() if share is not None)
        when = f"after epoch {self.best_epoch} of {self.epochs}, {self.elapsed_s:.0f} s"
        teacher = ", with the teacher in the loop" if self.online_teacher else ""
        return f"{self.student}: top-1 {known or 'not measured'} {when}{teacher}"


def train(
    config: "Config", *, resume: bool = False, progress: Progress | None = None, live: "LiveMaker | None" = None
) -> TrainResult:
    """Train a student and leave a run folder.

    Args:
        config: Its sections ``data``, ``student``, ``train``, ``optimiser``, ``augment``, ``losses``.
        resume: Go on with the run in ``train.out``; a finished one is left as it is and its result given.
        progress: Who watches.
        live: Makes the teacher in the loop, where ``train.online_teacher`` asks for one; see `embedkd.online`.

    Raises:
        ConfigError: A name or value of the config cannot be used.
        TrainingError: The folder holds another run, there is nothing to learn from, or a loss is not finite.
        SourceError: A shard or an image cannot be used.
        StoreError: The store cannot be trusted.
        JoinError: Store and shards do not belong together.
        Interrupted: SIGINT or SIGTERM; a checkpoint was written, and ``resume`` goes on from it.
        SystemExit: Of several processes another one failed, and says why.
    """
    if config.train.online_teacher != (live is not None):
        raise ConfigError("expected a teacher in the loop and train.online_teacher, got one alone; use embedkd.online")
    ranks = Ranks.from_environment()
    with joined(ranks):
        watch = progress if progress is not None and ranks.first else Silent()
        return _train(config, ranks, watch, live, resume=resume)


def _train(config: "Config", ranks: Ranks, watch: Progress, live: "LiveMaker | None", *, resume: bool) -> TrainResult:
    run = RunDir(Path(config.train.out))
    run.check(config, resume=resume)
    finished = run.read_result()
    if finished is not None:
        watch.line(f"{run.path} is finished already; name another folder with --out to train again")
        return result_from(TrainResult, finished, run.result)
    require_logs(config.train.logs)
    plan = Plan.of(as_begun(config, run), ranks)
    if plan.device.type == "cpu":
        tune_allocator()
    elif ranks.several:
        torch.cuda.set_device(plan.device)  # where NCCL's own tensors go
    for reason, rows in plan.data.train.left_out.items():
        watch.line(f"{rows} training samples are left out: {reason}")
    if plan.view_mismatch:
        watch.line(f"{', '.join(plan.view_mismatch)}: the student sees moved views, the teacher saw none (allowed)")
    for note in plan.data.notes:
        watch.line(f"note: {note}")
    if plan.data.val is None:
        watch.line("there is no validation split: the last epoch's student is kept")
    result = _fit(plan, run, watch, live)
    if ranks.first:
        write_json(run.result, result.to_json())
    return result


def _fit(plan: Plan, run: RunDir, watch: Progress, make_live: "LiveMaker | None") -> TrainResult:
    memory = PeakMemory(plan.device)
    live = None if make_live is None else make_live(plan.data.train.targets, plan.device)
    learner, card = plan.build(live)
    checkpoint = _read_checkpoint(run, plan)
    if checkpoint is not None:
        checkpoint.restore(learner)
    _agree(plan.ranks, learner.position)
    watch.line(f"note: {card.name} has {card.cost}")
    if card.begun_from is not None:
        watch.line(f"note: {card.name} begins with the weights of {card.begun_from}")
    watch.begin(f"train {card.name}", plan.budget.steps - learner.position.step, "steps")
    try:
        with ExitStack() as stack:
            recorder: Recorder | Onlooker = Onlooker()
            if plan.ranks.first:
                logs = open_logs(
                    run,
                    plan.config.train.logs,
                    plan.config.to_dict(),
                    keep_bytes=checkpoint.metrics_bytes if checkpoint is not None else 0,
                    elapsed_s=learner.position.elapsed_s,
                    say=watch.line,
                )
                recorder = Recorder(
                    run,
                    stack.enter_context(logs),
                    card,
                    data=plan.data.identity,
                    memory=memory,
                    progress=watch,
                    every_steps=plan.config.train.log_every_steps,
                    position=learner.position,
                )
                run.claim(plan.recorded)  # a logger that cannot begin leaves no run behind
            stop = plan.ranks.agreed(stack.enter_context(stop_wish()))
            begun = learner.position.step
            steps = plan.division.by_step(plan.training_batches(card, begun, live), begun)
            fit(learner, steps, plan.held_out_batches(card, plan.data.val), plan.budget, recorder, stop)
            result = plan.ranks.listed(_result(plan, run, learner.position))[0]
            recorder.result(result.steps, result.test_top1)
    finally:
        watch.end()
    return result


def _agree(ranks: Ranks, position: "Position") -> None:
    """Go on when all ranks are here, and found the same.

    Raises:
        CheckpointError: They stand at different steps.
    """
    steps = ranks.listed(position.step)
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"expected one checkpoint for all ranks, they found those of steps {', '.join(map(str, steps))}; "
            "put the run folder where all machines see it"
        )


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
    # Rank 0 reads what it wrote itself, and the others need no folder that all machines see.
    student, card = plan.ranks.told(load_student(run) if plan.ranks.first else None) or load_student(run)
    test = plan.held_out_batches(card, plan.data.test)
    found = None if test is None else accuracy(student.to(plan.device), test, plan.device, ranks=plan.ranks)
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
        online_teacher=plan.config.train.online_teacher,
        data=dict(plan.data.identity),
    )
