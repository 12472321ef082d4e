"""A student, or what is known of one, by name. Torch and timm are imported only when one is looked at."""

from typing import TYPE_CHECKING

from embedkd.students.names import resolve_name
from embedkd.students.spec import StudentOptions

if TYPE_CHECKING:
    from embedkd.students.timm import StudentFacts, TimmStudent

_NOTHING_ELSE = StudentOptions()


def build_student(
    name: str, *, num_classes: int, image_px: int, options: StudentOptions = _NOTHING_ELSE, seed: int = 0
) -> "TimmStudent":
    """A student on the CPU and in training mode, from scratch or from the weights that its name tells.

    Args:
        name: See `embedkd.students.names`.
        num_classes: Width of the logits; weights of another number of classes get a classifier that is drawn.
        image_px: Height and width of its input.
        options: What else is asked of it.
        seed: All that drawn weights depend on.

    Raises:
        UnknownNameError: No student has that name, or this one has no such option or tap.
        ConfigError: A number is out of range, an option is not for this student, or its weights cannot be had.
    """
    resolved = resolve_name(name)
    from embedkd.students.timm import TimmStudent
    from embedkd.students.weights import find_weights

    return TimmStudent(
        resolved,
        num_classes=num_classes,
        image_px=image_px,
        options=options,
        seed=seed,
        start=find_weights(resolved),
    )


def describe_student(
    name: str, *, num_classes: int, image_px: int, options: StudentOptions = _NOTHING_ELSE
) -> "StudentFacts":
    """What a student would be, without its weights and without the memory that they take.

    Args:
        name: See `embedkd.students.names`; weights that it tells are not looked at.
        num_classes: Width of the logits.
        image_px: Height and width of its input.
        options: What else is asked of it.

    Raises:
        UnknownNameError: No student has that name, or this one has no such option.
        ConfigError: A number is out of range, or an option is not for this student.
    """
    resolved = resolve_name(name)
    from embedkd.students.timm import examine
    from embedkd.students.timm_arguments import timm_arguments

    return examine(resolved, timm_arguments(resolved, num_classes, image_px, options), image_px)
