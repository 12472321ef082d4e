"""A student as two files, weights and card, and back. Neither can run code."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch

from embedkd.errors import TrainingError
from embedkd.records import blake2b_hex
from embedkd.rundir import RunDir, read_json, write_json
from embedkd.storage import write_atomic
from embedkd.students import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    StudentOptions,
    build_student,
    describe_student,
    parameter_count,
    resolve_name,
)
from embedkd.training.augment import FixedView

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from embedkd.students import Student, TimmStudent
    from embedkd.training.state import Position

FORMAT = 1
_MAX_CLASSES = 1 << 20
_MAX_IMAGE_PX = 1 << 13
_CHANNELS = 3


@dataclass(frozen=True)
class StudentCard:
    """student.json: how to build a student again, and what it expects.

    Attributes:
        name: Of the student, without weights to begin with.
        options: What else was asked of it.
        num_classes: Width of its logits.
        image_px: Height and width of its input.
        mean: Per channel, on pixels in [0, 1], that its input was normalised by.
        std: Likewise.
        class_names: In the order of its logits, where the data named them.
        parameters: How many it has.
        epoch: The epoch, counted from 1, after which these weights were the best.
        val_top1: Their share of right answers on the validation split; None where there was none.
        weights_blake2b: Of the file that holds the weights; this and the two above are filled in when it is saved.
        multiply_adds: Of its matrix products and convolutions for one image.
        begun_from: Where its first weights came from; None where they were drawn.
    """

    name: str
    options: StudentOptions
    num_classes: int
    image_px: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    class_names: tuple[str, ...] | None = None
    parameters: int = 0
    epoch: int = 0
    val_top1: float | None = None
    weights_blake2b: str = ""
    multiply_adds: int = 0
    begun_from: str | None = None

    def build(self, seed: int = 0) -> "TimmStudent":
        """A student of this kind, on the CPU, its weights drawn from that seed.

        Raises:
            UnknownNameError: No student has that name.
            ConfigError: A number is out of range.
        """
        return build_student(
            self.name, num_classes=self.num_classes, image_px=self.image_px, options=self.options, seed=seed
        )

    @property
    def cost(self) -> str:
        """Its size and its work, for people."""
        return f"{self.parameters:,} parameters, {self.multiply_adds:,} multiply-adds an image of {self.image_px} px"

    def view(self) -> FixedView:
        """From an image to its input, as validation and evaluation do it."""
        return FixedView(image_px=self.image_px, mean=self.mean, std=self.std)


def begin_student(
    name: str,
    options: StudentOptions,
    *,
    num_classes: int,
    image_px: int,
    class_names: tuple[str, ...] | None,
    seed: int,
) -> "tuple[TimmStudent, StudentCard]":
    """The student of a new run, from scratch or from the weights that its name tells, and its card.

    Args:
        name: With weights to begin with, or without.
        options: What else is asked of it.
        num_classes: Width of its logits.
        image_px: Height and width of its input.
        class_names: In the order of its logits, where the data names them.
        seed: All that drawn weights depend on.

    Raises:
        UnknownNameError: No student has that name, or this one has no such option or tap.
        ConfigError: A number is out of range, an option is not for this student, or its weights cannot be had.
    """
    student = build_student(name, num_classes=num_classes, image_px=image_px, options=options, seed=seed)
    return student, StudentCard(
        name=resolve_name(name).model,
        options=options,
        num_classes=num_classes,
        image_px=image_px,
        mean=student.mean,
        std=student.std,
        class_names=class_names,
        parameters=parameter_count(student),
        multiply_adds=student.multiply_adds,
        begun_from=student.begun_from,
    )


def save_student(
    run: RunDir, student: "Student", card: StudentCard, position: "Position", objective: "nn.Module | None" = None
) -> None:
    """Replace the best student of a run. The card goes last: it vouches for the weights.

    Args:
        run: Where to.
        student: Its weights are written.
        card: How to build it again; what it says of the weights is filled in.
        position: Of the run.
        objective: What it learned beside its weights (projections, scales) is kept with them.

    Raises:
        StorageError: A file could not be written.
    """
    weights = _serialise(student)
    made = replace(
        card,
        parameters=parameter_count(student),
        epoch=position.best_epoch or 0,
        val_top1=position.best_top1,
        weights_blake2b=blake2b_hex(weights),
    )
    if objective is not None and objective.state_dict():
        write_atomic(run.projections, _serialise(objective, {"student": made.weights_blake2b}))
    write_atomic(run.weights, weights)
    write_json(run.student, {"format": FORMAT, **asdict(made)})


def _serialise(module: "nn.Module", facts: dict[str, str] | None = None) -> bytes:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    return safetensors.torch.save(state, metadata=facts)


def load_projections(run: RunDir, card: StudentCard) -> "dict[str, Tensor]":
    """What the best student of a run learned beside its weights, by the names of `Objective`, on the CPU.

    Args:
        run: The run.
        card: Of its student.

    Returns:
        "losses.<name of the loss>.projection.weight" and others, float32; empty where its losses learn nothing.

    Raises:
        TrainingError: It was written for another student.
    """
    path = run.projections
    if not path.exists():
        return {}
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise TrainingError(f"{path} cannot be read: {str(error).partition(chr(10))[0]}") from error
    if facts.get("student") != card.weights_blake2b:
        raise TrainingError(f"{path} is not the file that {run.student.name} was written for; resume the run")
    return state


def load_student(run: RunDir) -> "tuple[TimmStudent, StudentCard]":
    """The best student of a run, on the CPU, in evaluation mode.

    Raises:
        TrainingError: The run has none yet, or its files do not fit together.
        UnknownNameError: The card names a student that this version does not have.
    """
    card = read_card(read_json(run.student), run.student)
    try:
        weights = run.weights.read_bytes()
    except OSError as error:
        raise TrainingError(f"cannot read {run.weights}: {error.strerror}") from error
    if blake2b_hex(weights) != card.weights_blake2b:
        raise TrainingError(f"{run.weights} is not the file that {run.student.name} was written for; resume the run")
    try:
        return restore_student(card, safetensors.torch.load(weights)), card
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise TrainingError(f"{run.weights} holds no {card.name}: {str(error).partition(chr(10))[0]}") from error


def restore_student(card: StudentCard, state: "Mapping[str, Tensor]") -> "TimmStudent":
    """A student with these weights, on the CPU, in evaluation mode.

    Args:
        card: How to build it; may come from a stranger.
        state: By its own names.

    Raises:
        RuntimeError: The weights are of another student.
        UnknownNameError: The card names a student that this version does not have.
        ConfigError: It names options that this student does not have.
    """
    facts = describe_student(card.name, num_classes=card.num_classes, image_px=card.image_px, options=card.options)
    held = sum(tensor.numel() for tensor in state.values())
    if facts.parameters > held:  # found before memory is taken for them
        raise RuntimeError(f"expected {facts.parameters:,} parameters, got {held:,}")
    student = card.build()
    student.load_state_dict(dict(state))
    return student.eval()


def read_card(document: "Mapping[str, Any]", path: "Path") -> StudentCard:
    """A card from what was written.

    Args:
        document: Of student.json, or of the config of an export.
        path: For errors.

    Raises:
        TrainingError: It is of another format, a field is missing or unknown, or a size is out of bounds.
        ConfigError: It has an option that is out of range.
    """
    facts = dict(document)
    try:
        if facts.pop("format") != FORMAT:
            raise TrainingError(f"{path} is of another format than {FORMAT}; use another embedkd")
        for name in ("mean", "std", "class_names"):
            facts[name] = None if facts[name] is None else tuple(facts[name])
        options = dict(facts["options"])
        facts["options"] = StudentOptions(**{**options, "taps": tuple(options.get("taps", ()))})
        card = StudentCard(**facts)
        fits = 0 < card.num_classes <= _MAX_CLASSES and 0 < card.image_px <= _MAX_IMAGE_PX
        fits &= len(card.mean) == len(card.std) == _CHANNELS
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is no card of a student: {error}") from error
    if not fits:
        raise TrainingError(f"{path}: {card.num_classes} classes of {card.image_px} px images are out of bounds")
    return card
