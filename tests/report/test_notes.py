from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedkd.report.notes import notes
from embedkd.report.runs import read_runs

MakeRun = Callable[..., Path]


def test_runs_of_one_budget_that_went_well_need_no_note(make_run: MakeRun) -> None:
    runs = read_runs([make_run("a", losses={"cross_entropy": 1.0}), make_run("b")])
    assert notes(runs) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"result": {"view_mismatch": ["mse"]}}, "mse compared a cropped or mirrored view"),
        ({"result": {"left_out": {"not precomputed": 7}}}, "7 training samples were left out: not precomputed"),
        ({"finished": False, "evaluated": False}, "not finished (in epoch 3 of 30)"),
        ({"validated": False, "result": {"val_top1": None}}, "no validation split"),
        ({"train": {"allow_random_teacher": True}}, "random weights, as a control"),
        ({"result": {"online_teacher": True}}, "the teacher ran in every step"),
        ({"evaluation": {"weights_blake2b": "other"}}, "an earlier student"),
        ({"evaluation": {"split": "val"}}, "evaluated on the val split"),
        ({"evaluation": {"data": "elsewhere"}}, "evaluated on elsewhere"),
        ({"evaluation": {"left_out": {"broken": 2}}}, "2 test samples were left out: broken"),
    ],
)
def test_a_caveat_names_its_run(make_run: MakeRun, change: dict[str, Any], said: str) -> None:
    (note,) = notes(read_runs([make_run("mine", **change)]))
    assert "<strong>mine</strong>" in note
    assert said in note


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"epochs": 7}}, "<code>train.epochs</code>"),
        ({"student": {"name": "vit-base"}}, "<code>student.name</code>"),
        ({"evaluation": {"rows": 50}}, "test splits differ"),
        ({"result": {"device": "cuda:0 (NVIDIA)"}}, "different devices"),
    ],
)
def test_runs_that_do_not_compare_are_told(make_run: MakeRun, change: dict[str, Any], said: str) -> None:
    (note,) = notes(read_runs([make_run("a"), make_run("b", **change)]))
    assert said in note
