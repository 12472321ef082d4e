"""Adapter to come."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedkd.teachers.base import LoadOptions, ResolvedName
    from embedkd.teachers.runner import TorchTeacher


def load(name: "ResolvedName", options: "LoadOptions") -> "TorchTeacher":
    """Load a teacher."""
    raise NotImplementedError
