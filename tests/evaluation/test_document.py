import json
from pathlib import Path

import pytest

from embedkd.errors import TrainingError
from embedkd.evaluation import Estimate, Evaluation, read_evaluation, write_evaluation
from embedkd.rundir import RunDir

METRICS = {"top1": Estimate(0.5, 0.4, 0.6), "exact": Estimate(1.0)}
EVALUATION = Evaluation("ab" * 32, "data:clipart", "test", 200, None, {"not precomputed": 3}, "cpu", METRICS)


def test_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert read_evaluation(run) is None
    write_evaluation(run, EVALUATION)
    assert read_evaluation(run) == EVALUATION


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    """It has neither notes nor details, and none are written where there are none."""
    document = EVALUATION.to_json()
    assert set(document) == {
        *("format", "weights_blake2b", "data", "split", "rows", "bank_rows", "left_out", "device", "metrics")
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(document))
    assert read_evaluation(RunDir(tmp_path)) == EVALUATION


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 2}', "format 1, got 2"),
        ("{}", "'format'"),
        ('{"format": 1, "metrics": {}}', "missing"),
        ('{"format": 1, "metrics": {"top1": 0.5}}', "no evaluation of a student"),
        ('{"format": 1, "metrics": []}', "no evaluation of a student"),
        ('{"format": 1, "metrics": {}, "notes": "all"}', "no evaluation of a student"),
        ("{", "cannot be read"),
    ],
)
def test_names_the_file_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(TrainingError, match=f"(?s)evaluation.json.*{said}.*evaluate the run again"):
        read_evaluation(RunDir(tmp_path))
