"""Everything that was measured on the test split, beyond the table of results: a row a measure, a column a run."""

from typing import TYPE_CHECKING

from embedkd.evaluation import METRICS, title_of
from embedkd.report import units
from embedkd.report.figures import Curve, Drawing
from embedkd.report.markup import Markup, render, tag
from embedkd.report.table import swatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedkd.evaluation import Estimate
    from embedkd.evaluation.calibration import Bin
    from embedkd.report.runs import Run

_MOST_MEASURES = 200  # strangers may name any
_IN_RESULTS = {"top1", "top5", "knn"}


def measures_table(runs: "Sequence[Run]") -> Markup | None:
    """All metrics, those that every version knows first; None where there is nothing but what the results show."""
    known = [run.evaluation for run in runs if run.evaluation is not None and run.evaluation.split == "test"]
    found = dict.fromkeys(name for evaluation in known for name in evaluation.metrics)
    if set(found) <= _IN_RESULTS:
        return None
    order = {name: place for place, name in enumerate(METRICS)}
    names = sorted(found, key=lambda name: order.get(name.partition("@")[0], len(order)))[:_MOST_MEASURES]
    head = [tag("th", "Measure", scope="col"), *(tag("th", *_label(i, run), scope="col") for i, run in enumerate(runs))]
    body = [
        tag("tr", tag("th", title_of(name), scope="row"), *(_cell(name, run.measured(name)) for run in runs))
        for name in names
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="settings measures")
    return tag("div", table, class_="wide", tabindex="0", role="region", aria_label="All measures")


def reliability(runs: "Sequence[Run]") -> "Iterator[Drawing]":
    """Accuracy against confidence, as trained and after temperature scaling."""
    tables = {
        "Reliability": [run.details.reliability for run in runs],
        "Reliability after temperature scaling": [run.details.scaled_reliability for run in runs],
    }
    for title, found in tables.items():
        curves = [_curve(number, bins) for number, bins in enumerate(found) if bins]
        if curves:
            yield Drawing(title, "confidence", curves, "calibration")


def _curve(run: int, bins: "Sequence[Bin]") -> Curve:
    rows = sum(one.rows for one in bins)
    shares = [one.rows / rows for one in bins]
    return Curve(run, [one.confidence for one in bins], [one.hits / one.rows for one in bins], sizes=shares)


def _label(number: int, run: "Run") -> list[Markup]:
    return [swatch(number), tag("span", run.name, class_="run")]


def _cell(name: str, estimate: "Estimate | None") -> Markup:
    if estimate is None:
        return tag("td", units.MISSING)
    metric = METRICS.get(name.partition("@")[0])
    share = metric is not None and metric.unit == "share"
    value = units.percent(estimate.value) if share else f"{estimate.value:.3f}"
    ends = units.interval(estimate.low, estimate.high) if share else _interval(estimate)
    return tag("td", render(value, " ", tag("span", ends, class_="beside")) if ends else value)


def _interval(estimate: "Estimate") -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{estimate.low:.3f},\N{NO-BREAK SPACE}{estimate.high:.3f}]"
