"""Stage 2: a student learns from stored targets. Nothing here, or imported from here, knows a teacher.

Importing this package loads nothing: each loader worker unpickles a transform from ``augment`` and would otherwise load
timm, which takes seconds, to build models that it never sees.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedkd.training.augment import FixedView
    from embedkd.training.saved import StudentCard, load_student
    from embedkd.training.stage import TrainResult, train

__all__ = ["FixedView", "StudentCard", "TrainResult", "load_student", "train"]

_MODULES = {
    "FixedView": "augment",
    "StudentCard": "saved",
    "TrainResult": "stage",
    "load_student": "saved",
    "train": "stage",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
