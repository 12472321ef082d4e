"""The loop: steps, and at the end of each epoch a validation and a checkpoint. It knows no paths and no config."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import Interrupted, TrainingError
from embedkd.training.validation import accuracy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from embedkd.join import Batch
    from embedkd.training.recorder import Onlooker, Recorder
    from embedkd.training.state import Learner, Position


@dataclass(frozen=True)
class Budget:
    """How long a run is, and what is due when.

    Attributes:
        epochs: Passes over the training split.
        steps_per_epoch: Batches a pass.
        validate_every_epochs: Epochs between validations; the last is always validated.
        checkpoint_every_steps: Steps between checkpoints within an epoch; 0 for none.
    """

    epochs: int
    steps_per_epoch: int
    validate_every_epochs: int = 1
    checkpoint_every_steps: int = 0

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def start(self, step: int) -> tuple[int, int]:
        """Epoch and step in it, both from 0, of the first batch after ``step`` steps."""
        return divmod(step, self.steps_per_epoch)

    def epoch_waits(self, position: "Position") -> bool:
        """Whether the last step ended an epoch whose end is not done yet."""
        return (
            position.step > position.epochs_ended * self.steps_per_epoch and position.step % self.steps_per_epoch == 0
        )

    def validation_due(self, epoch: int) -> bool:
        """Whether an epoch, counted from 1, ends with a validation."""
        return epoch == self.epochs or epoch % self.validate_every_epochs == 0

    def checkpoint_due(self, step: int) -> bool:
        """Whether a step, counted from 1, is followed by a checkpoint, its epoch's end aside."""
        every = self.checkpoint_every_steps
        return every > 0 and step % every == 0 and step % self.steps_per_epoch != 0


def fit(
    learner: "Learner",
    steps: "Iterable[Sequence[Batch]]",
    validation: "Iterable[Batch] | None",
    budget: Budget,
    recorder: "Recorder | Onlooker",
    stop: "Callable[[], bool]",
) -> None:
    """Train from the learner's position to the end of the budget.

    Args:
        learner: Student, losses and optimiser, fresh or restored.
        steps: What each step learns from, of all epochs in one stream, from the learner's position on.
        validation: The validation split, iterated once a validation; None chooses the last epoch's student.
        budget: How long.
        recorder: Keeps metrics, checkpoints and the best student.
        stop: Asked between steps; after a yes a checkpoint is written and nothing more is begun.

    Raises:
        Interrupted: ``stop`` said yes.
        TrainingError: A loss or gradient is not finite (the parameters are as they were before that batch), or a
            label is no class.
    """
    stream = iter(steps)
    position = learner.position
    learner.student.train()
    while position.step < budget.steps or budget.epoch_waits(position):
        if stop():
            recorder.checkpoint(learner)
            raise Interrupted(
                f"stopped after step {position.step} of {budget.steps}; add --resume to the same command to go on"
            )
        if budget.epoch_waits(position):
            _end_epoch(learner, validation, budget, recorder, stop)
            continue
        batches = next(stream, None)
        if batches is None:
            raise TrainingError(f"the data ended after step {position.step} of {budget.steps}")
        values = learner.gradients(*batches)
        if not values.finite:
            raise recorder.failed(position.step + 1, learner.keys(batches), values)
        learner.update()
        recorder.step(position.step, (position.step - 1) // budget.steps_per_epoch + 1, values)
        if budget.checkpoint_due(position.step):
            recorder.checkpoint(learner)


def _end_epoch(
    learner: "Learner",
    validation: "Iterable[Batch] | None",
    budget: Budget,
    recorder: "Recorder | Onlooker",
    stop: "Callable[[], bool]",
) -> None:
    position = learner.position
    epoch = position.epochs_ended + 1
    if validation is None:
        position.best_epoch = epoch
        recorder.best(learner)
    elif budget.validation_due(epoch):
        found = accuracy(learner.judged, validation, learner.device, stop, learner.ranks)
        if found is None:
            return  # told to stop: the epoch's end waits in the checkpoint
        better = position.best_top1 is None or found.top1 > position.best_top1
        if better:
            position.best_top1, position.best_epoch = found.top1, epoch
            recorder.best(learner)
        recorder.validation(position.step, epoch, found, better=better)
    position.epochs_ended = epoch
    recorder.checkpoint(learner)
