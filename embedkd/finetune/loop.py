"""The loop: steps of both phases, and at the end of each epoch a validation and a checkpoint. It knows no paths."""

from typing import TYPE_CHECKING

from embedkd.errors import Interrupted, TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from embedkd.finetune.recorder import Recorder
    from embedkd.finetune.tuner import Found, Tuner
    from embedkd.join import Batch


def tune(
    tuner: "Tuner",
    batches: "Iterable[Batch]",
    validation: "Iterable[Batch]",
    recorder: "Recorder",
    stop: "Callable[[], bool]",
) -> None:
    """Train from the tuner's position to its last step.

    Args:
        tuner: Fresh or restored.
        batches: Of all epochs of both phases in one stream, from the tuner's position on.
        validation: Iterated at the end of each epoch.
        recorder: Keeps metrics, checkpoints and the best epoch's weights.
        stop: Asked between steps; after a yes a checkpoint is written and nothing more is begun.

    Raises:
        Interrupted: ``stop`` said yes.
        TrainingError: A loss or gradient is not finite (the parameters are as they were before that batch), or a
            label is no class.
    """
    stream, position = iter(batches), tuner.position
    while position.step < tuner.steps or _epoch_waits(tuner):
        if stop():
            recorder.checkpoint(tuner)
            raise Interrupted(
                f"stopped after step {position.step} of {tuner.steps}; add --resume to the same command to go on"
            )
        if _epoch_waits(tuner):
            _end_epoch(tuner, validation, recorder, stop)
            continue
        batch = next(stream, None)
        if batch is None:
            raise TrainingError(f"the data ended after step {position.step} of {tuner.steps}")
        values = tuner.gradients(batch)
        if not values.finite:
            raise TrainingError(
                f"step {position.step + 1}: expected a finite loss and gradient, got {values.loss} and "
                f"{values.grad_norm}; go on from the last checkpoint with --resume, or begin again with a lower --lr"
            )
        tuner.update()
        recorder.step(tuner, values)


def is_better(found: "Found", best_top1: float | None, best_loss: float | None) -> bool:
    """Whether a validation beats the best one so far: more right answers, or as many at a lower loss."""
    if best_top1 is None or best_loss is None:
        return True
    return (found.top1, -found.loss) > (best_top1, -best_loss)


def _epoch_waits(tuner: "Tuner") -> bool:
    """Whether the last step ended an epoch whose end is not done yet."""
    position = tuner.position
    ended, within = divmod(position.step, tuner.steps_per_epoch)
    return ended > position.epochs_ended and not within


def _end_epoch(tuner: "Tuner", validation: "Iterable[Batch]", recorder: "Recorder", stop: "Callable[[], bool]") -> None:
    position = tuner.position
    found = tuner.evaluate(validation, stop)
    if found is None:
        return  # told to stop: the epoch's end waits in the checkpoint
    epoch = position.epochs_ended + 1
    better = is_better(found, position.best_top1, tuner.best_loss)
    if better:
        position.best_top1, position.best_epoch, tuner.best_loss = found.top1, epoch, found.loss
        recorder.best(tuner)
    recorder.validation(tuner, epoch, found, better=better)
    position.epochs_ended = epoch
    recorder.checkpoint(tuner)
