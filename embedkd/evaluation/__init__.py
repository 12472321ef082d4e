"""What a student is worth. Evaluators take arrays and yield names and values; none of them knows a trainer or a run.

One file an evaluator: ``top1`` (accuracy), ``knn``, ``linear``, ``calibration``, ``classes`` (per class), and beside a
teacher ``agreement``, ``alignment``, ``neighbours``, ``cka``, ``zero_shot``. ``embed`` makes the arrays, ``stage`` does
it for a run folder, ``metrics`` says in which unit each number is.
Importing this package loads neither torch nor scikit-learn: a report needs only what was measured.
"""

import importlib
from typing import TYPE_CHECKING

from embedkd.evaluation.details import Details
from embedkd.evaluation.document import Evaluation, read_evaluation, write_evaluation
from embedkd.evaluation.estimate import Estimate, proportion
from embedkd.evaluation.measures import Measures
from embedkd.evaluation.metrics import METRICS, shown, title_of
from embedkd.evaluation.top1 import accuracy

if TYPE_CHECKING:
    from embedkd.evaluation.embed import Collected, collect
    from embedkd.evaluation.knn import knn_accuracy
    from embedkd.evaluation.stage import evaluate_run

__all__ = [
    "METRICS",
    "Collected",
    "Details",
    "Estimate",
    "Evaluation",
    "Measures",
    "accuracy",
    "collect",
    "evaluate_run",
    "knn_accuracy",
    "proportion",
    "read_evaluation",
    "shown",
    "title_of",
    "write_evaluation",
]

_HEAVY_NAMES = {"Collected": "embed", "collect": "embed", "knn_accuracy": "knn", "evaluate_run": "stage"}


def __getattr__(name: str) -> object:
    if name not in _HEAVY_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HEAVY_NAMES[name]}"), name)
