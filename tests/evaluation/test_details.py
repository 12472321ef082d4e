import json
from typing import Any

import numpy as np
import pytest

from embedkd.errors import TrainingError
from embedkd.evaluation import METRICS, Estimate, Evaluation, proportion, shown, title_of
from embedkd.evaluation.calibration import Answers, reliability
from embedkd.evaluation.classes import ClassCounts, Confusions, count_classes
from embedkd.evaluation.details import Details
from embedkd.rundir import MAX_DOCUMENT_BYTES

DRAW = np.random.default_rng(0)
LOGITS, LABELS = DRAW.normal(size=(50, 4)).astype(np.float32), DRAW.integers(0, 4, 50)
FULL = Details(
    reliability(Answers.of(LOGITS, LABELS)),
    reliability(Answers.of(LOGITS, LABELS, 0.5)),
    *count_classes(LOGITS, LABELS),
)


def through_json(details: Details) -> Details:
    return Details.from_json(json.loads(json.dumps(details.to_json())))


@pytest.mark.parametrize(
    "details",
    [Details(), FULL, Details(classes=ClassCounts((1,), (1,), (1,)), confusions=Confusions((), 0))],
)
def test_comes_back_as_it_was(details: Details) -> None:
    assert through_json(details) == details


def evaluation_of(details: Any) -> Evaluation:
    facts = {"weights_blake2b": "w", "data": "d", "split": "test", "rows": 1, "bank_rows": None, "left_out": {}}
    return Evaluation.from_json({"format": 1, **facts, "device": "cpu", "metrics": {}, "details": details})


BINS: dict[str, Any] = {"low": [0.0], "high": [1.0], "rows": [2], "hits": [1], "confidence": [0.5]}
CLASSES = {"rows": [2, 1], "hits": [1, 1], "answers": [1, 2]}
PAIRS = {"label": [0], "answer": [1], "rows": [1], "left_out": 0}


@pytest.mark.parametrize(
    "details",
    [
        {"more": 1},
        [],
        {"reliability": None},
        {"reliability": {**BINS, "low": [float("nan")]}},
        {"reliability": {**BINS, "rows": [0]}},
        {"reliability": {**BINS, "hits": [3]}},
        {"reliability": {**BINS, "hits": [1, 1]}},
        {"reliability": {**BINS, "hits": [True]}},
        {"reliability": {**BINS, "hits": "1"}},
        {"reliability": {name: column * 1001 for name, column in BINS.items()}},
        {"classes": {**CLASSES, "hits": [2, 1]}},
        {"classes": {**CLASSES, "hits": [-1, 1]}},
        {"classes": {**CLASSES, "rows": [10**400, 1]}},
        {"classes": {"rows": [2, 1], "hits": [1, 1]}},
        {"classes": {name: [0] * (1 << 16) for name in CLASSES}},
        {"confusions": PAIRS},
        {"classes": CLASSES, "confusions": {**PAIRS, "answer": [2]}},
        {"classes": CLASSES, "confusions": {**PAIRS, "label": [-1]}},
        {"classes": CLASSES, "confusions": {**PAIRS, "left_out": None}},
        {"classes": CLASSES, "confusions": {**PAIRS, "more": 0}},
    ],
)
def test_what_no_evaluation_writes_is_refused(details: Any) -> None:
    with pytest.raises(TrainingError, match="no evaluation of a student"):
        evaluation_of(details)


def test_details_that_fit_are_taken_and_old_files_have_none() -> None:
    found = evaluation_of({"reliability": BINS, "classes": CLASSES, "confusions": PAIRS}).details
    assert found.confusions == Confusions(((0, 1, 1),), 0)
    assert evaluation_of({}).details == Details()


def test_thousands_of_classes_fit_into_the_file() -> None:
    labels = np.arange(30_000) % 20_000
    logits = np.zeros((30_000, 1), np.float32)
    counts = ClassCounts(*([1_000_000] * 20_000 for _ in range(3)))  # type: ignore[arg-type]
    _, confusions = count_classes(np.tile(logits, (1, 64)), labels % 64)
    document = Details(classes=counts, confusions=confusions).to_json()
    assert len(json.dumps(document, indent=2)) < MAX_DOCUMENT_BYTES


def test_metrics_are_shown_in_their_units() -> None:
    assert shown("top1", proportion(1, 2)) == ("50.0%", "9.5% to 90.5%")
    assert shown("nll@vit-l-32", Estimate(1.5, 1, 2)) == ("1.500", "1.000 to 2.000")
    assert shown("of_another_version", Estimate(12.0)) == ("12.000", "-")
    assert title_of("nll@vit-l-32") == "NLL (vit-l-32)"
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)
