import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from embedkd.errors import ConfigError, TrainingError
from embedkd.evaluation import Measures, evaluate_run, knn_accuracy, read_evaluation
from embedkd.progress import Silent
from embedkd.rundir import RunDir, read_json

RunOf = Callable[[str], Path]
TOP1 = Measures(knn=False, calibration=False, per_class=False)


class Watcher(Silent):
    def __init__(self) -> None:
        self.begun: list[tuple[str, int, str]] = []
        self.done: list[int] = []

    def begin(self, task: str, total: int, unit: str) -> None:
        self.begun.append((task, total, unit))
        self.done.append(0)

    def advance(self, count: int, note: str = "") -> None:
        self.done[-1] += count


@pytest.mark.parametrize("name", ["stored", "plain"])
def test_says_what_the_trainer_said(run_of: RunOf, name: str) -> None:
    run = run_of(name)
    found = evaluate_run(run, device="cpu")
    assert found["metrics"]["top1"]["value"] == read_json(run / "result.json")["test_top1"]
    assert (found["split"], found["rows"], found["bank_rows"]) == ("test", 11, 20)
    assert list(found["metrics"])[:4] == ["top1", "knn", "balanced", "macro_f1"]
    assert {"nll", "brier", "ece", "ece_mass", "ece_floor", "overconfidence", "temperature", "ece_scaled"} <= set(
        found["metrics"]
    )
    counts = found["details"]["classes"]
    assert sum(counts["rows"]) == sum(counts["answers"]) == 11
    assert sum(counts["hits"]) == round(11 * found["metrics"]["top1"]["value"])
    assert sum(found["details"]["reliability"]["rows"]) == 11
    evaluation = read_evaluation(RunDir(run))
    assert evaluation is not None
    assert evaluation.to_json() == found == json.loads((run / "evaluation.json").read_bytes())
    assert evaluation.weights_blake2b == read_json(run / "student.json")["weights_blake2b"]


def test_the_same_again_gives_the_same_bytes(run_of: RunOf) -> None:
    run = run_of("stored")
    texts = set()
    for _ in range(2):
        evaluate_run(run, device="cpu")
        texts.add((run / "evaluation.json").read_bytes())
    assert len(texts) == 1


def test_the_validation_split_gives_what_chose_the_student(run_of: RunOf) -> None:
    run = run_of("stored")
    found = evaluate_run(run, split="val", measures=TOP1, device="cpu")
    assert found["metrics"]["top1"]["value"] == read_json(run / "result.json")["val_top1"]
    assert (found["rows"], found["bank_rows"], list(found["metrics"])) == (7, None, ["top1"])


def test_the_same_shards_by_another_way_give_the_same(run_of: RunOf, home: Path) -> None:
    run = run_of("stored")
    own, plain = evaluate_run(run, device="cpu"), evaluate_run(run, data=str(home / "data"), device="cpu")
    assert own["metrics"] == plain["metrics"]
    assert plain["data"] == str(home / "data")


def test_other_shards_borrow_the_runs_own_training_split(run_of: RunOf, make_data: Callable[..., Path]) -> None:
    found = evaluate_run(run_of("plain"), data=str(make_data({"test": 5})), device="cpu")
    assert (found["rows"], found["bank_rows"]) == (5, 20)


def test_tells_how_far_it_is(run_of: RunOf) -> None:
    watcher = Watcher()
    evaluate_run(run_of("stored"), device="cpu", progress=watcher)
    rows = {"test": 11, "train": 20, "val": 7}
    assert watcher.begun == [(f"evaluate vit-tiny ({split})", count, "images") for split, count in rows.items()]
    assert watcher.done == [11, 20, 7]


def test_knn_on_the_training_split_would_find_each_sample_itself(run_of: RunOf) -> None:
    run = run_of("plain")
    with pytest.raises(ConfigError, match="another split"):
        evaluate_run(run, split="train")
    assert evaluate_run(run, split="train", measures=TOP1, device="cpu")["rows"] == 20


def test_no_run_and_no_student_are_said_so(tmp_path: Path, run_of: RunOf) -> None:
    with pytest.raises(TrainingError, match="expected a run folder"):
        evaluate_run(tmp_path)
    run = run_of("plain")
    (run / "student.json").unlink()
    with pytest.raises(TrainingError, match=r"student\.json"):
        evaluate_run(run)
    assert not (run / "evaluation.json").exists()


def test_a_store_that_has_moved_is_one_flag_away(run_of: RunOf, home: Path, tmp_path: Path) -> None:
    run = run_of("stored")
    config = read_json(run / "config.json")
    config["train"]["targets"] = str(tmp_path / "gone.zarr")
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError, match=r"(?s)gone.zarr.*with --data"):
        evaluate_run(run)
    assert evaluate_run(run, data=str(home / "data"), device="cpu")["rows"] == 11


def test_shards_without_labels_are_refused(run_of: RunOf, make_data: Callable[..., Path]) -> None:
    with pytest.raises(TrainingError, match="expected labelled samples"):
        evaluate_run(run_of("plain"), data=str(make_data({"test": 2}, labels=False)), measures=TOP1, device="cpu")


def test_a_running_run_may_be_looked_at(run_of: RunOf) -> None:
    run = run_of("plain")
    (run / "result.json").unlink()
    assert evaluate_run(run, measures=TOP1, device="cpu")["rows"] == 11


def test_what_was_measured_is_read_without_torch_or_scikit_learn() -> None:
    code = "import sys, embedkd.evaluation; print({'torch', 'sklearn'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
    assert callable(knn_accuracy)
