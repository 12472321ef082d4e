import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkd.evaluation import Estimate, proportion
from embedkd.report.runs import read_runs
from embedkd.report.table import Scale, results_table, swatch

MakeRun = Callable[..., Path]


@given(st.lists(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1))
def test_a_scale_holds_every_interval_between_few_ticks(counts: list[tuple[int, int]]) -> None:
    estimates = [proportion(*count) for count in counts]
    scale = Scale.over(estimates)
    for estimate in estimates:
        assert estimate.low is not None
        assert estimate.high is not None
        assert scale.low <= estimate.low + 1e-9
        assert estimate.high <= scale.high + 1e-9
    assert 2 <= len(scale.ticks) <= 5
    assert scale.ticks[-1] == pytest.approx(scale.high)
    assert (scale.at(scale.low), scale.at(scale.high)) == ("0.00%", "100.00%")


def test_a_scale_of_a_single_exact_value_has_a_width() -> None:
    assert Scale.over([Estimate(0.5)]).high > 0.5


def text_of(html: str) -> list[str]:
    return [
        text for text in re.sub(r"<[^>]*>", "\n", html).replace("\N{NO-BREAK SPACE}", " ").split("\n") if text.strip()
    ]


def test_a_row_says_what_the_run_said(make_run: MakeRun) -> None:
    shown = text_of(results_table(read_runs([make_run("mine", hits=90)])))
    for value in (
        *("mine", "0.5 cross_entropy + 0.5 class_contrastive", "vit-tiny, 32 px ", "825 k parameters"),
        *("45.0 % ", "[38.3, 51.9]", "40.0 % ", "300 MiB ", "of 1000 MiB", "23.5 s ", "0.638 steps/s"),
    ):
        assert value in shown


def test_the_whisker_lies_where_the_axis_says(make_run: MakeRun) -> None:
    runs = read_runs([make_run("a", hits=90)])
    estimate = runs[0].test_top1
    assert estimate is not None
    scale, html = Scale.over([estimate]), results_table(runs)
    assert estimate.low is not None
    assert f'cx="{scale.at(estimate.value)}"' in html
    assert f'x1="{scale.at(estimate.low)}"' in html


def test_each_run_has_the_colour_of_its_curves(make_run: MakeRun) -> None:
    html = results_table(read_runs([make_run("a"), make_run("b", hits=80)]))
    first, second = html.split("<tr")[2:]
    for row, own, other in ((first, 0, 1), (second, 1, 0)):
        assert swatch(own) in row
        assert f"var(--run-{other})" not in row


def test_a_single_loss_of_weight_1_is_its_name(make_run: MakeRun) -> None:
    runs = read_runs([make_run("a", losses={"mse": 1.0}), make_run("b", losses={"mse": 2000.0})])
    shown = text_of(results_table(runs))
    assert "mse" in shown
    assert "2000 mse" in shown


def test_what_is_not_known_yet_is_a_dash(make_run: MakeRun) -> None:
    html = results_table(read_runs([make_run(epochs=0, finished=False, evaluated=False)]))
    assert "running or interrupted, before its first step" in html
    assert text_of(html).count("\N{EN DASH}") == 5
    assert "whisker" not in html


def test_a_run_that_a_loss_stopped_says_so(make_run: MakeRun) -> None:
    path = make_run(finished=False, evaluated=False)
    (path / "failed_batch.json").write_text("{}")
    assert "stopped by a loss that is not finite" in results_table(read_runs([path]))
