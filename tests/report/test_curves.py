from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from embedkd.report.curves import drawings
from embedkd.report.figures import Drawing
from embedkd.report.runs import Run, read_run, read_runs

MakeRun = Callable[..., Path]


def by_title(*runs: Run) -> dict[str, Drawing]:
    return {drawing.title: drawing for drawing in drawings(runs)}


def test_what_counts_comes_first_and_every_term_is_there(make_run: MakeRun) -> None:
    runs = read_runs(
        [make_run("a", losses={"cross_entropy": 1.0}), make_run("b", losses={"cross_entropy": 1, "mse": 2.0})]
    )
    found = by_title(*runs)
    assert list(found) == ["Validation top-1", "Training loss", "cross_entropy", "mse", "Learning rate"]
    assert [curve.run for curve in found["mse"].curves] == [1]


def test_a_single_loss_is_not_drawn_twice(make_run: MakeRun) -> None:
    run = read_run(make_run(losses={"cross_entropy": 1.0}), "a")
    assert list(by_title(run)) == ["Validation top-1", "Training loss", "Learning rate"]


def test_losses_are_means_of_an_epochs_steps(make_run: MakeRun) -> None:
    run = read_run(make_run(epochs=2), "a")
    (curve,) = by_title(run)["cross_entropy"].curves
    expected = [sum(line["terms"]["cross_entropy"] for line in run.steps if line["epoch"] == e) / 5 for e in (1, 2)]
    assert list(curve.x) == [1, 2]
    assert list(curve.y) == pytest.approx(expected)


def test_the_kept_student_is_marked(make_run: MakeRun) -> None:
    run = read_run(make_run(epochs=5), "a")
    (curve,) = by_title(run)["Validation top-1"].curves
    assert curve.mark is not None
    assert curve.x[curve.mark] == run.best_epoch


def test_a_long_run_is_thinned_and_keeps_both_ends(make_run: MakeRun) -> None:
    run = read_run(make_run(epochs=1), "a")
    steps = [{"kind": "train", "epoch": 1, "step": i, "lr": i / 10} for i in range(1, 1001)]
    (curve,) = by_title(replace(run, steps=steps))["Learning rate"].curves
    assert len(curve.x) == 200
    assert (curve.x[0], curve.x[-1]) == (1, 1000)


def test_losses_that_differ_by_magnitudes_are_drawn_by_magnitudes(make_run: MakeRun) -> None:
    runs = read_runs([make_run("a"), make_run("b", losses={"cross_entropy": 1.0, "mse": 2000.0})])
    found = by_title(*runs)
    assert found["Training loss"].scale == "log"
    assert found["cross_entropy"].scale == "linear"


def test_a_run_without_a_line_has_no_curve(make_run: MakeRun) -> None:
    assert by_title(read_run(make_run(epochs=0, finished=False, evaluated=False), "a")) == {}
