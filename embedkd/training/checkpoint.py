"""Checkpoints: everything needed to go on, in one file that is there whole or not at all.

Neither generators nor the schedule are in it: both are functions of the step. Nothing in it is pickled code: it is read
with ``weights_only=True``.
"""

import io
import pickle
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from embedkd.errors import CheckpointError
from embedkd.storage import write_atomic
from embedkd.training.memory import Memory
from embedkd.training.state import Position

if TYPE_CHECKING:
    from pathlib import Path

    from embedkd.training.state import Learner

FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps.

    Attributes:
        position: How far it is.
        data: What it learns from, as `embedkd.training.data` identifies it.
        metrics_bytes: Length of metrics.jsonl at that moment.
        student: The student's state.
        objective: What the losses learned: projections and scales.
        optimiser: The optimiser's state.
        average: State of the student's moving average; None without one.
    """

    position: Position
    data: dict[str, Any]
    metrics_bytes: int
    student: dict[str, torch.Tensor]
    objective: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    average: dict[str, torch.Tensor] | None = None

    @classmethod
    def of(cls, learner: "Learner", data: dict[str, Any], metrics_bytes: int) -> "Checkpoint":
        """The learner's present state; tensors are shared, not copied."""
        return cls(
            learner.position,
            data,
            metrics_bytes,
            learner.student.state_dict(),
            learner.objective.state_dict(),
            learner.optimiser.state_dict(),
            None if learner.average is None else learner.average.parts.state_dict(),
        )

    def restore(self, learner: "Learner") -> None:
        """Put this state into a learner of the same config.

        Raises:
            CheckpointError: The learner has other parameters.
        """
        try:
            learner.student.load_state_dict(self.student)
            learner.objective.load_state_dict(self.objective)
            learner.optimiser.load_state_dict(self.optimiser)
            if learner.average is not None:
                learner.average.parts.load_state_dict(self.average or {})
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"the checkpoint belongs to another student or other losses: {reason}") from error
        learner.position = self.position


def write_checkpoint(path: "Path", checkpoint: Checkpoint) -> None:
    """Replace the checkpoint; until the new one is durable the last one stays.

    Raises:
        StorageError: It could not be written; the last one is as it was.
    """
    document = {
        "format": FORMAT,
        "position": asdict(checkpoint.position),
        "data": checkpoint.data,
        "metrics_bytes": checkpoint.metrics_bytes,
        "student": checkpoint.student,
        "objective": checkpoint.objective,
        "optimiser": checkpoint.optimiser,
        "average": checkpoint.average,
    }
    buffer = io.BytesIO()
    torch.save(document, buffer)
    write_atomic(path, buffer.getvalue())


def read_checkpoint(path: "Path") -> Checkpoint:
    """Read a checkpoint, its tensors to the CPU.

    Raises:
        CheckpointError: It is cut, changed, of another format, or no checkpoint.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        if document["format"] != FORMAT:
            raise CheckpointError(
                f"{path} is of format {document['format']}, this version reads {FORMAT}; finish the run with the "
                "version that began it, or name another folder with --out"
            )
        facts = document["position"]
        memory = None if facts["memory"] is None else Memory(**facts["memory"])
        fields = ("data", "metrics_bytes", "student", "objective", "optimiser", "average")
        return Checkpoint(Position(**{**facts, "memory": memory}), **{name: document[name] for name in fields})
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} cannot be read ({reason}); put it back from a copy, or delete the run folder to start again"
        ) from error
