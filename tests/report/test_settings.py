import re
from collections.abc import Callable
from pathlib import Path

from embedkd.report.runs import read_runs
from embedkd.report.settings import settings

MakeRun = Callable[..., Path]


def test_differences_come_first_and_each_config_whole(make_run: MakeRun) -> None:
    runs = read_runs([make_run("a"), make_run("b", losses={"mse": 1.0}, train={"seed": 7})])
    table, *folds = settings(runs).split("<details>")
    keys = re.findall(r"<th scope=\"row\"><code>([^<]*)</code>", table)
    assert keys == ["train.seed", "losses.cross_entropy", "losses.class_contrastive", "losses.mse"]
    assert len(folds) == 2
    assert all("<code>optimiser.weight_decay</code>" in fold and "train.out" in fold for fold in folds)


def test_one_run_has_nothing_to_differ_from(make_run: MakeRun) -> None:
    assert settings(read_runs([make_run()])).startswith("<details>")
