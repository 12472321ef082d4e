"""``embedkd evaluate`` and ``report``: what came of runs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from embedkd.cli.options import AsJson, Data
from embedkd.cli.output import print_json, print_rows, say
from embedkd.cli.progress import watcher

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")]


class SplitName(StrEnum):
    """Splits, as typer wants choices to be given."""

    train = "train"
    val = "val"
    test = "test"


def evaluate_command(
    run: Run,
    data: Data = None,
    split: Annotated[SplitName, typer.Option(help="Which part of the data.")] = SplitName.test,
    knn: Annotated[bool, typer.Option(help="Also classify by nearest neighbours among training embeddings.")] = True,
    as_json: AsJson = False,
) -> None:
    """Measure a trained student on held-out images."""
    from embedkd.evaluation import evaluate_run

    found = evaluate_run(run, data=data, split=split.value, knn=knn, progress=watcher())
    if as_json:
        print_json(found)
        return
    say(f"{run}: {found['rows']} {found['split']} images of {found['data']}")
    print_rows(("metric", "value", "95 % interval"), [_metric(name, e) for name, e in found["metrics"].items()])


def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders to compare.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML page about runs."""
    from embedkd.report import write_report

    say(write_report(runs, out))


def _metric(name: str, estimate: dict[str, float | None]) -> tuple[str, str, str]:
    low, high = estimate["low"], estimate["high"]
    between = "-" if low is None or high is None else f"{low:.1%} to {high:.1%}"
    return name, f"{estimate['value']:.1%}", between
