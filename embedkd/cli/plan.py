"""The plan of ``embedkd train --dry-run`` as lines."""

from typing import TYPE_CHECKING

from embedkd.report.units import duration, rate, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedkd.training.preview import PlannedLoss, Preview


def plan_lines(plan: "Preview") -> "Iterator[str]":
    """What a run will do, a fact a line."""
    yield _line("samples", f"{plan.train_rows:,} train, {plan.val_rows:,} validation, {plan.test_rows:,} test")
    for reason, count in plan.left_out.items():
        yield _line("", f"{count:,} left out: {reason}")
    for note in plan.notes:
        yield _line("", note)
    steps = f"{plan.steps:,}: {plan.epochs} epochs of {plan.steps_per_epoch:,}, of {plan.batch_size:,} samples each"
    yield _line("steps", steps)
    epoch = f"{size(plan.shard_bytes)} of shards and {size(plan.target_bytes)} of targets"
    yield _line("reads", f"{epoch} an epoch, {size(plan.all_bytes)} in all")
    work = f"{plan.parameters:,} parameters, {plan.multiply_adds:,} multiply-adds an image"
    yield _line("student", f"{plan.student}, {work}")
    for at, loss in enumerate(plan.losses):
        yield _line("" if at else "losses", _loss(loss))
    if plan.view_mismatch:
        names = ", ".join(plan.view_mismatch)
        yield _line("views", f"{names}: the student sees moved views, the teacher saw none (allowed)")
    yield _line("device", f"{plan.device}, {plan.precision}, {plan.workers} workers")
    yield from _costs(plan)


def _loss(loss: "PlannedLoss") -> str:
    learned = f"; learns {loss.parameters:,} parameters" if loss.parameters else ""
    bridge = "" if loss.projection is None else f", projected {loss.projection[0]} to {loss.projection[1]}"
    return f"{loss.weight:g} {loss.name}: {loss.compares}{bridge}{learned}"


def _costs(plan: "Preview") -> "Iterator[str]":
    trial = plan.trial
    parts = {
        "parameters": trial.parameters_bytes,
        "gradients": trial.gradients_bytes,
        "optimiser": trial.optimiser_bytes,
        "average": trial.average_bytes,
        "activations": trial.activations_bytes,
    }
    shown = ", ".join(f"{name} {size(count)}" for name, count in parts.items() if count)
    yield _line("memory", f"{size(trial.memory.net_bytes)} at the peak of {trial.steps} steps; {shown}")
    each = f"{rate(trial.step_s)} s a step, {rate(trial.read_s)} s to read its samples in one process"
    yield _line("time", f"about {duration(plan.about_s)} without validation; {each}")


def _line(title: str, text: str) -> str:
    return f"{title:<9}{text}"
