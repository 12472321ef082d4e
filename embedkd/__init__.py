"""Knowledge distillation from stored teacher embeddings: run the teacher once, train students many times."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedkd.export import load_student
    from embedkd.store import open_store

__version__ = "0.1.0"
__all__ = ["__version__", "load_student", "open_store"]

_HOMES = {
    "load_student": "embedkd.export",
    "open_store": "embedkd.store",
}  # imported when asked for, so that `import embedkd` costs nothing


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
