"""What timm makes of a student: a moving average of its weights, and norms over the samples of all ranks."""

from typing import TYPE_CHECKING, cast

from timm.layers import convert_sync_batchnorm
from torch import nn

if TYPE_CHECKING:
    from embedkd.students import Student


class MovingAverage:
    """An exponential moving average of parameters and running statistics, judged and kept in the learners' place.

    What the losses learned beside the student (projections) is averaged with it, so that both still fit together.
    Early steps decay faster (1 - step^(-2/3), at most ``decay``), so that short runs do not keep their first weights.
    What a step does depends on the average, the learners and the step's number alone, so a checkpoint needs no more.

    Args:
        student: Where it begins; later on the same device.
        objective: Likewise.
        decay: Share of the average that a step keeps.
    """

    def __init__(self, student: "Student", objective: nn.Module, decay: float) -> None:
        from timm.utils.model_ema import ModelEmaV3  # timm.utils imports wandb where that is installed: a second

        self._learning = nn.ModuleDict({"student": student, "objective": objective})
        self._average = ModelEmaV3(self._learning, decay=decay, use_warmup=True)
        self._average.requires_grad_(requires_grad=False)

    @property
    def parts(self) -> nn.ModuleDict:
        """Both averages, as "student" and "objective"."""
        found: nn.ModuleDict = self._average.module
        return found

    @property
    def student(self) -> "Student":
        """The averaged one, in evaluation mode."""
        return cast("Student", self.parts["student"])

    @property
    def objective(self) -> nn.Module:
        """What the losses learned, averaged."""
        return self.parts["objective"]

    def update(self, step: int) -> None:
        """Take in what a step made, counted from 1; the first is taken as it is."""
        self._average.update(self._learning, step=step)


def synchronised(student: "Student") -> "Student":
    """The same student, each BatchNorm of it over the samples of all ranks; for CUDA devices alone."""
    made: Student = convert_sync_batchnorm(student)
    return made
