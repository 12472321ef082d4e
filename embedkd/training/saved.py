"""A student as two files, weights and card, and back. Neither can run code."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch

from embedkd.errors import TrainingError
from embedkd.records import blake2b_hex
from embedkd.rundir import RunDir, read_json, write_json
from embedkd.storage import write_atomic
from embedkd.students import build_student, parameter_count

if TYPE_CHECKING:
    from embedkd.students import Student
    from embedkd.training.state import Position

FORMAT = 1
_MAX_CLASSES = 1 << 20
_MAX_IMAGE_PX = 1 << 13


@dataclass(frozen=True)
class StudentCard:
    """student.json: how to build a student again, and what it expects.

    Attributes:
        name: In the table of students.
        options: Arguments of ``build_student`` beyond those here (``patch_px``, ``drop_path``).
        num_classes: Width of its logits.
        image_px: Height and width of its input.
        mean: Per channel, on pixels in [0, 1], that its input was normalised by.
        std: Likewise.
        class_names: In the order of its logits, where the data named them.
        parameters: How many it has; this and what follows is filled in when it is saved.
        epoch: The epoch, counted from 1, after which these weights were the best.
        val_top1: Their share of right answers on the validation split; None where there was none.
        weights_blake2b: Of the file that holds the weights.
    """

    name: str
    options: dict[str, Any]
    num_classes: int
    image_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...] | None
    parameters: int = 0
    epoch: int = 0
    val_top1: float | None = None
    weights_blake2b: str = ""

    def build(self, seed: int = 0) -> "Student":
        """A student of this kind, on the CPU, its weights drawn from that seed.

        Raises:
            UnknownNameError: No student has that name.
            ConfigError: A number is out of range.
        """
        return build_student(self.name, num_classes=self.num_classes, image_px=self.image_px, seed=seed, **self.options)


def save_student(run: RunDir, student: "Student", card: StudentCard, position: "Position") -> None:
    """Replace the best student of a run. The card goes last: it vouches for the weights.

    Raises:
        StorageError: A file could not be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    made = replace(
        card,
        parameters=parameter_count(student),
        epoch=position.best_epoch or 0,
        val_top1=position.best_top1,
        weights_blake2b=blake2b_hex(weights),
    )
    write_atomic(run.weights, weights)
    write_json(run.student, {"format": FORMAT, **asdict(made)})


def load_student(run: RunDir) -> "tuple[Student, StudentCard]":
    """The best student of a run, on the CPU, in evaluation mode.

    Raises:
        TrainingError: The run has none yet, or its files do not fit together.
        UnknownNameError: The card names a student that this version does not have.
    """
    card = _read_card(run)
    try:
        weights = run.weights.read_bytes()
    except OSError as error:
        raise TrainingError(f"cannot read {run.weights}: {error.strerror}") from error
    if blake2b_hex(weights) != card.weights_blake2b:
        raise TrainingError(f"{run.weights} is not the file that {run.student.name} was written for; resume the run")
    student = card.build()
    try:
        student.load_state_dict(safetensors.torch.load(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise TrainingError(f"{run.weights} holds no {card.name}: {str(error).partition(chr(10))[0]}") from error
    return student.eval(), card


def _read_card(run: RunDir) -> StudentCard:
    document = read_json(run.student)
    try:
        if document.pop("format") != FORMAT:
            raise TrainingError(f"{run.student} is of another format than {FORMAT}; use another embedkd")
        for name in ("mean", "std", "class_names"):
            document[name] = None if document[name] is None else tuple(document[name])
        card = StudentCard(**document)
        fits = 0 < card.num_classes <= _MAX_CLASSES and 0 < card.image_px <= _MAX_IMAGE_PX
    except (KeyError, TypeError) as error:
        raise TrainingError(f"{run.student} is no card of a student: {error}") from error
    if not fits:
        raise TrainingError(f"{run.student}: {card.num_classes} classes of {card.image_px} px images are out of bounds")
    return card
