"""A job: one teacher's pass; and the rows of one slot that it fills batch by batch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import TeacherError
from embedkd.precompute.worker import Transform
from embedkd.records import OutputSpec, RowStatus
from embedkd.store import Pass, SlotRows
from embedkd.store.quantising import holds
from embedkd.teachers.base import preprocess_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from embedkd.precompute.reading import SlotRun
    from embedkd.store import PassWriter
    from embedkd.teachers.base import Teacher

TEXT = "text"


def image_outputs(outputs: "Sequence[str]") -> tuple[str, ...]:
    """Those that come from pixels."""
    return tuple(name for name in outputs if name != TEXT)


@dataclass(frozen=True, eq=False)
class Job:
    """One teacher and one of its passes.

    Attributes:
        teacher: The teacher.
        writer: Writes the pass; its recorded settings are `plan`.
    """

    teacher: "Teacher"
    writer: "PassWriter"

    @property
    def plan(self) -> Pass:
        """The pass as recorded in the store."""
        return self.writer.plan

    @property
    def image_outputs(self) -> tuple[str, ...]:
        """Outputs that come from pixels."""
        return image_outputs(self.plan.outputs)

    @property
    def transform(self) -> "Transform":
        """From an image to the pixels that the teacher sees: all of it, or the part of a view."""
        view = self.writer.spec.view
        return Transform(preprocess_for(self.teacher, view), self.teacher.spec.preprocess.crop_px, view)

    @property
    def reads_text(self) -> bool:
        """Whether captions are wanted."""
        return TEXT in self.plan.outputs


class SlotTable:
    """What one job says of one slot, so far.

    Args:
        job: The job.
        rows: Samples of the slot.
    """

    def __init__(self, job: Job, rows: int) -> None:
        self._name = job.writer.spec.title
        self._specs: dict[str, OutputSpec] = {}
        for name in job.plan.outputs:
            output = job.writer.spec.output(name)
            assert output is not None  # the writer has checked it
            self._specs[name] = output
        self.outputs = {name: np.full((rows, o.dim), np.nan, np.float32) for name, o in self._specs.items()}
        self.status = {name: np.zeros(rows, np.uint8) for name in self._specs}

    def put(self, name: str, first: int, status: "NDArray[np.uint8]", said: Any) -> None:
        """Take the rows of one batch.

        Args:
            name: The output.
            first: Row of the batch's first sample.
            status: u8 [N], one a sample of the batch.
            said: Tensor [M, D], one row a sample whose status is OK; None where the teacher said nothing.

        Raises:
            TeacherError: It has another shape than the specification promises.
        """
        places = np.flatnonzero(status == RowStatus.OK)
        self.status[name][first : first + len(status)] = status
        if not len(places):
            return
        values = None if said is None else said.float().cpu().numpy()
        expected = (len(places), self._specs[name].dim)
        if values is None or values.shape != expected:
            got = "none" if values is None else values.shape
            raise TeacherError(f"{self._name}: expected {name} of shape {expected}, got {got}")
        self.outputs[name][first + places] = values
        lost = ~holds(self._specs[name], values)
        self.status[name][first + places[lost]] = RowStatus.NON_FINITE

    def not_finite(self, name: str) -> "NDArray[np.intp]":
        """Rows of an output that the store cannot hold."""
        return np.flatnonzero(self.status[name] == RowStatus.NON_FINITE)

    def rows(self, run: "SlotRun") -> SlotRows:
        """Everything that is written."""
        return SlotRows(
            keys=np.array(run.hashes, np.uint64),
            labels=np.array(run.labels, np.int32),
            places=np.array(run.places, np.uint64).reshape(-1, 3),
            outputs=self.outputs,
            status=self.status,
            source=run.source,
        )
