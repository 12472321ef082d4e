"""Stage: task heads for teachers, made of stored rows alone. Their logits are rows of a derived teacher.

Importing this package loads nothing: an evaluation fits probes by `logistic` and must not load a teacher's library.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedkd.heads.stage import HeadResult, make_head

__all__ = ["HeadResult", "make_head"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.stage"), name)
