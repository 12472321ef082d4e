"""The students: models that learn, built by name.

Importing this package loads neither torch nor timm, which take seconds: names and shapes are in ``catalogue``, modules
in ``base``, ``vit`` and ``projection``.
"""

import importlib
from typing import TYPE_CHECKING

from embedkd.students.catalogue import STUDENTS, build_student
from embedkd.students.spec import VitSpec

if TYPE_CHECKING:
    from embedkd.students.base import Student, StudentOutput, parameter_count
    from embedkd.students.projection import Projection

__all__ = [
    "STUDENTS",
    "Projection",
    "Student",
    "StudentOutput",
    "VitSpec",
    "build_student",
    "parameter_count",
]

_TORCH_NAMES = {"Student": "base", "StudentOutput": "base", "parameter_count": "base", "Projection": "projection"}


def __getattr__(name: str) -> object:
    if name not in _TORCH_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_TORCH_NAMES[name]}"), name)
