"""The students: models that learn, built by name.

Importing this package loads neither torch nor timm, which take seconds: names and options are plain data, modules are
loaded when they are asked for.
"""

import importlib
from typing import TYPE_CHECKING

from embedkd.students.catalogue import build_student, describe_student
from embedkd.students.names import FAMILIES, STUDENTS, StudentName, resolve_name, timm_names
from embedkd.students.spec import IMAGENET_MEAN, IMAGENET_STD, StudentOptions, VitSpec
from embedkd.students.torchvision_names import TIMM_NAMES as TORCHVISION_NAMES

if TYPE_CHECKING:
    from embedkd.students.base import Student, StudentOutput, parameter_count
    from embedkd.students.cost import multiply_adds
    from embedkd.students.projection import Projection
    from embedkd.students.timm import StudentFacts, TimmStudent

__all__ = [
    "FAMILIES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "STUDENTS",
    "TORCHVISION_NAMES",
    "Projection",
    "Student",
    "StudentFacts",
    "StudentName",
    "StudentOptions",
    "StudentOutput",
    "TimmStudent",
    "VitSpec",
    "build_student",
    "describe_student",
    "multiply_adds",
    "parameter_count",
    "resolve_name",
    "timm_names",
]

_TORCH_NAMES = {
    "Projection": "projection",
    "Student": "base",
    "StudentFacts": "timm",
    "StudentOutput": "base",
    "TimmStudent": "timm",
    "multiply_adds": "cost",
    "parameter_count": "base",
}


def __getattr__(name: str) -> object:
    if name not in _TORCH_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_TORCH_NAMES[name]}"), name)
