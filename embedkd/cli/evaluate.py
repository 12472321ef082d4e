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
    knn: Annotated[bool, typer.Option(help="Classify by nearest neighbours among training embeddings.")] = True,
    calibration: Annotated[bool, typer.Option(help="Calibration errors, scores, a fitted temperature.")] = True,
    per_class: Annotated[bool, typer.Option(help="Class by class, and what was taken for what.")] = True,
    linear: Annotated[bool, typer.Option("--linear", help="Fit a linear probe to training embeddings.")] = False,
    agreement: Annotated[bool, typer.Option("--agreement", help="Compare with what the teachers said.")] = False,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="Classify by class texts of a teacher.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="All of these, as far as the run allows.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a trained student on held-out images."""
    from embedkd.evaluation import Measures, evaluate_run

    chosen = Measures(knn, linear, agreement, calibration, per_class, zero_shot)
    measures = Measures.everything(split.value, data) if everything else chosen
    found = evaluate_run(run, data=data, split=split.value, measures=measures, progress=watcher())
    if as_json:
        print_json(found)
        return
    say(f"{run}: {found['rows']} {found['split']} images of {found['data']}")
    print_rows(("metric", "value", "95 % interval"), [_metric(name, e) for name, e in found["metrics"].items()])
    for line in found.get("notes", ()):
        say(f"note: {line}")


def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders to compare.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML page about runs."""
    from embedkd.report import write_report

    say(write_report(runs, out))


def _metric(name: str, estimate: dict[str, float | None]) -> tuple[str, str, str]:
    from embedkd.evaluation import Estimate, shown, title_of

    value = estimate["value"]
    assert value is not None
    return title_of(name), *shown(name, Estimate(value, estimate["low"], estimate["high"]))
