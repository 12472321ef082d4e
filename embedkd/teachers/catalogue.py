"""Loading a teacher by name."""

from typing import TYPE_CHECKING

from embedkd.teachers.base import LoadOptions
from embedkd.teachers.families import FAMILIES
from embedkd.teachers.names import resolve_name

if TYPE_CHECKING:
    from embedkd.teachers.base import Teacher


def load_teacher(name: str, options: LoadOptions | None = None) -> "Teacher":
    """Load a teacher, ready to run.

    Args:
        name: See `resolve_name`.
        options: Device, precision, and where weights come from.

    Raises:
        ConfigError: As for `resolve_name`.
        TeacherError: The weights cannot be had, do not fit, or the device is not there.
    """
    resolved = resolve_name(name)
    return FAMILIES[resolved.family].load(resolved, options or LoadOptions())
