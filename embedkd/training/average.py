"""What timm makes of a student: a moving average of its weights, and norms over the samples of all ranks."""

from typing import TYPE_CHECKING

from timm.layers import convert_sync_batchnorm

if TYPE_CHECKING:
    from embedkd.students import Student


class MovingAverage:
    """An exponential moving average of parameters and running statistics, judged and kept in the student's place.

    Early steps decay faster (1 - step^(-2/3), at most ``decay``), so that short runs do not keep their first weights.
    What a step does depends on the average, the student and the step's number alone, so a checkpoint needs no more.

    Args:
        student: Where it begins; later on the same device.
        decay: Share of the average that a step keeps.
    """

    def __init__(self, student: "Student", decay: float) -> None:
        from timm.utils.model_ema import ModelEmaV3  # timm.utils imports wandb where that is installed: a second

        self._average = ModelEmaV3(student, decay=decay, use_warmup=True)
        self._average.requires_grad_(requires_grad=False)

    @property
    def student(self) -> "Student":
        """The averaged one, in evaluation mode."""
        found: Student = self._average.module
        return found

    def update(self, student: "Student", step: int) -> None:
        """Take in the student after a step, counted from 1; the first is taken as it is."""
        self._average.update(student, step=step)


def synchronised(student: "Student") -> "Student":
    """The same student, each BatchNorm of it over the samples of all ranks; for CUDA devices alone."""
    made: Student = convert_sync_batchnorm(student)
    return made
