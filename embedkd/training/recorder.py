"""Everything a run leaves behind while it learns: metrics, checkpoints, the best student, the batch that failed."""

import time
from typing import TYPE_CHECKING, Any

from embedkd.errors import TrainingError
from embedkd.rundir import RunDir, write_json
from embedkd.training.checkpoint import Checkpoint, write_checkpoint
from embedkd.training.saved import StudentCard, save_student

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.progress import Progress
    from embedkd.training.logs import RunLogs
    from embedkd.training.memory import PeakMemory
    from embedkd.training.state import Learner, Position, StepValues
    from embedkd.training.validation import Accuracy

_SHOWN_KEYS = 6


class Onlooker:
    """A recorder that writes nothing, for ranks beside the first."""

    def step(self, step: int, epoch: int, values: "StepValues") -> None:
        """Ignored."""

    def validation(self, step: int, epoch: int, found: "Accuracy", *, better: bool) -> None:
        """Ignored."""

    def checkpoint(self, learner: "Learner") -> None:
        """Ignored."""

    def best(self, learner: "Learner") -> None:
        """Ignored."""

    def result(self, step: int, test_top1: float | None) -> None:
        """Ignored."""

    def failed(self, step: int, keys: "Sequence[str]", values: "StepValues") -> TrainingError:
        """What ends this process; the first rank says more."""
        return TrainingError(f"step {step}: expected finite losses, got {values.loss} of {len(keys)} samples")


class Recorder:
    """Writes a run folder.

    Args:
        run: The folder.
        log: Its metrics, open, and whoever else takes them.
        card: How to build the student again.
        data: What the run learns from, for the checkpoint.
        memory: Measures this part of the run.
        progress: Watches.
        every_steps: Steps between lines of the metrics.
        position: Where this part of the run begins.
    """

    def __init__(
        self,
        run: RunDir,
        log: "RunLogs",
        card: StudentCard,
        *,
        data: dict[str, Any],
        memory: "PeakMemory",
        progress: "Progress",
        every_steps: int,
        position: "Position",
    ) -> None:
        self._run = run
        self._log = log
        self._card = card
        self._data = data
        self._memory = memory
        self._progress = progress
        self._every_steps = every_steps
        self._began = time.perf_counter() - position.elapsed_s

    def elapsed_s(self) -> float:
        """Seconds of all parts of the run."""
        return time.perf_counter() - self._began

    def step(self, step: int, epoch: int, values: "StepValues") -> None:
        """A step was done; both are counted from 1."""
        if step % self._every_steps == 0:
            self._log.append(
                {
                    "kind": "train",
                    "step": step,
                    "epoch": epoch,
                    "loss": values.loss,
                    "terms": values.terms,
                    "grad_norm": values.grad_norm,
                    "lr": values.lr,
                    "elapsed_s": round(self.elapsed_s(), 3),
                }
            )
        self._progress.advance(1, f"epoch {epoch} loss {values.loss:.3f} lr {values.lr:.2g}")

    def validation(self, step: int, epoch: int, found: "Accuracy", *, better: bool) -> None:
        """The student was validated at the end of an epoch."""
        self._log.append(
            {
                "kind": "validation",
                "step": step,
                "epoch": epoch,
                "top1": found.top1,
                "rows": found.rows,
                "best": better,
                "elapsed_s": round(self.elapsed_s(), 3),
            }
        )

    def checkpoint(self, learner: "Learner") -> None:
        """Write what is needed to go on from here; the metrics first, so that they are never behind it."""
        position = learner.position
        position.elapsed_s = self.elapsed_s()
        now = self._memory.read()
        if position.memory is None or now.net_bytes > position.memory.net_bytes:
            position.memory = now
        write_checkpoint(self._run.checkpoint, Checkpoint.of(learner, self._data, self._log.sync()))

    def best(self, learner: "Learner") -> None:
        """Keep the present student as the best one."""
        save_student(self._run, learner.judged, self._card, learner.position, learner.fitting)

    def result(self, step: int, test_top1: float | None) -> None:
        """The best student was looked at on the test split, if there is one; for loggers, as result.json has it too."""
        if test_top1 is not None:
            elapsed_s = round(self.elapsed_s(), 3)
            self._log.hand_on({"kind": "test", "step": step, "top1": test_top1, "elapsed_s": elapsed_s})

    def failed(self, step: int, keys: "Sequence[str]", values: "StepValues") -> TrainingError:
        """The error for a step that gave no finite loss or gradient; the keys of all its samples go to a file."""
        shown = ", ".join(keys[:_SHOWN_KEYS])
        more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
        what = {name: repr(value) for name, value in {**values.terms, "grad_norm": values.grad_norm}.items()}
        write_json(self._run.failed_batch, {"step": step, "values": what, "keys": list(keys)})
        kept = (
            f"{self._run.checkpoint.name} is untouched"
            if self._run.checkpoint.exists()
            else "no checkpoint was due yet"
        )
        return TrainingError(
            f"step {step}: expected finite losses, got {', '.join(f'{k} {v}' for k, v in what.items())}; {kept}\n"
            f"samples {shown}{more} (all in {self._run.failed_batch}); look at them, or train with a lower optimiser.lr"
        )
