"""A trained student as files that other programs load: safetensors in timm's form, and ONNX.

Importing this package loads nothing heavy.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedkd.export.folder import load_student
    from embedkd.export.stage import FORMATS, ExportResult, export_run

__all__ = ["FORMATS", "ExportResult", "export_run", "load_student"]

_MODULES = {"ExportResult": "stage", "FORMATS": "stage", "export_run": "stage", "load_student": "folder"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
