import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from embedkd.errors import TrainingError
from embedkd.evaluation import Estimate, proportion
from embedkd.report.runs import distinct_names, read_run, read_runs

MakeRun = Callable[..., Path]


def test_a_finished_run(make_run: MakeRun) -> None:
    (run,) = read_runs([make_run("a", hits=90)])
    assert (run.name, run.finished, run.outdated, run.failed) == ("a", True, False, False)
    assert run.losses == {"cross_entropy": 0.5, "class_contrastive": 0.5}
    assert run.test_top1 == proportion(90, 200)
    assert (run.test_rows, run.measured("knn")) == (200, proportion(80, 200))
    assert (run.parameters, run.elapsed_s, run.steps_done) == (825_000, 23.5, 15)
    assert run.steps_per_s == pytest.approx(15 / 23.5)


def test_the_best_validation_is_the_first_of_the_greatest(make_run: MakeRun) -> None:
    path = make_run("a")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    shares = iter([0.2, 0.4, 0.4])
    lines = [{**line, "top1": next(shares)} if line["kind"] == "validation" else line for line in lines]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(path, "a")
    assert (run.val_top1, run.best_epoch) == (0.4, 2)


def test_a_run_that_was_not_evaluated_has_its_own_count_with_an_interval(make_run: MakeRun) -> None:
    run = read_run(make_run(evaluated=False, result={"test_top1": 0.33, "test_rows": 200}), "a")
    assert run.test_top1 == proportion(66, 200)
    assert run.measured("knn") is None


def test_an_evaluation_of_another_split_or_student_is_not_the_tests(make_run: MakeRun) -> None:
    other = read_run(make_run("a", evaluation={"split": "val"}), "a")
    assert (other.test_top1, other.measured("top1")) == (proportion(90, 200), None)
    old = read_run(make_run("b", evaluation={"weights_blake2b": "another"}), "b")
    assert (old.evaluation, old.outdated) == (None, True)


@pytest.mark.parametrize(("epochs", "progress"), [(0, "before its first step"), (2, "in epoch 2 of 30")])
def test_a_run_on_its_way(make_run: MakeRun, epochs: int, progress: str) -> None:
    run = read_run(make_run(epochs=epochs, finished=False, evaluated=False), "a")
    assert (run.finished, run.progress, run.test_top1, run.fact("memory")) == (False, progress, None, None)
    assert run.parameters == (825_000 if epochs else None)
    assert run.elapsed_s == (1.0 if epochs else None)
    assert (run.val_top1 is None) == (epochs == 0)


def test_a_run_without_validation_or_test(make_run: MakeRun) -> None:
    result = {"val_top1": None, "test_top1": None, "test_rows": 0}
    run = read_run(make_run(validated=False, evaluated=False, result=result), "a")
    assert (run.val_top1, run.test_top1, run.best_epoch) == (None, None, 2)


def test_a_metric_without_interval_is_kept_as_it_is(make_run: MakeRun) -> None:
    run = read_run(make_run(evaluation={"metrics": {"top1": Estimate(0.5)}}), "a")
    assert run.test_top1 == Estimate(0.5)


def test_a_half_written_last_line_is_no_error_and_a_broken_one_is(make_run: MakeRun) -> None:
    path = make_run()
    whole = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(whole + '{"kind": "tr')
    assert read_run(path, "a").steps_done == 15
    (path / "metrics.jsonl").write_text("{\n" + whole)
    with pytest.raises(TrainingError, match=r"metrics\.jsonl cannot be read"):
        read_run(path, "a")


def test_what_is_no_run_is_named(tmp_path: Path, make_run: MakeRun) -> None:
    with pytest.raises(TrainingError, match=r"no\b.*run"):
        read_runs([])
    with pytest.raises(TrainingError, match=r"expected a run folder with config\.json"):
        read_runs([tmp_path])
    path = make_run("a")
    with pytest.raises(TrainingError, match="named twice"):
        read_runs([path, path / ".." / "a"])


def test_names_tell_runs_apart(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run("x/run")
    other = Path(shutil.copytree(path, tmp_path / "y" / "run"))
    assert [run.name for run in read_runs([path, other])] == ["x/run", "y/run"]
    assert distinct_names([Path("/a/b"), Path("/a/b/b")]) == ["a/b", "b/b"]
    assert distinct_names([Path("/run"), Path("/a/run")]) == ["/run", "a/run"]
