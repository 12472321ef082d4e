from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from embedkd.report import classes as module
from embedkd.report.classes import class_tables
from embedkd.report.runs import read_runs
from embedkd.rundir import RunDir, read_json, write_json
from tests.report.conftest import MEASURED
from tests.report.test_measures import rows_of

MakeRun = Callable[..., Path]


def named(path: Path, names: list[str]) -> Path:
    card = RunDir(path).student
    write_json(card, {**read_json(card), "class_names": names})
    return path


def test_classes_that_are_found_least_come_first(make_run: MakeRun) -> None:
    run = named(make_run(evaluation=MEASURED), ["<ant>", "bee", "cat"])
    confused, fold = class_tables(read_runs([run]))
    assert rows_of(confused)[1:] == [
        ["&lt;ant&gt;", "cat", "60 of 100"],
        ["cat", "&lt;ant&gt;", "40 of 100"],
        ["&lt;ant&gt;", "bee", "10 of 100"],
    ]
    assert rows_of(fold)[1:] == [
        ["&lt;ant&gt;", "100", "30.0 % [21.9, 39.6]", "42.9 %", "35.3 %"],
        ["cat", "100", "60.0 % [50.2, 69.1]", "50.0 %", "54.5 %"],
    ], "a class without test images has no row"
    assert "<ant>" not in fold


def test_classes_without_names_have_numbers_and_long_tables_an_end(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_CLASSES", 1)
    monkeypatch.setattr(module, "_MOST_PAIRS", 2)
    confused, fold = class_tables(read_runs([make_run(evaluation=MEASURED)]))
    assert [row[0] for row in rows_of(fold)] == ["Class", "class 0"]
    assert "2 classes with test images, those found least first, 1 of them" in fold
    assert len(rows_of(confused)) == 3


def test_nothing_is_shown_of_runs_that_counted_nothing_or_confused_nothing(make_run: MakeRun) -> None:
    assert class_tables(read_runs([make_run("bare")])) == []
    details = MEASURED["details"]
    sure = replace(details, confusions=replace(details.confusions, pairs=()))
    (fold,) = class_tables(read_runs([make_run("sure", evaluation={**MEASURED, "details": sure})]))
    assert "<details>" in fold
