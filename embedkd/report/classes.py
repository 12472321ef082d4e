"""Class by class: which classes are found, and what is taken for what."""

from typing import TYPE_CHECKING

from embedkd.evaluation import proportion
from embedkd.report import units
from embedkd.report.markup import Markup, tag
from embedkd.report.table import swatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.evaluation.classes import ClassCounts
    from embedkd.report.runs import Run

_MOST_PAIRS = 10
_MOST_CLASSES = 1000


def class_tables(runs: "Sequence[Run]") -> list[Markup]:
    """For each run what it confuses most, then in a fold all of its classes; nothing where none was counted."""
    confused = [panel for number, run in enumerate(runs) if (panel := _confusions(number, run)) is not None]
    folds = [fold for number, run in enumerate(runs) if (fold := _classes(number, run)) is not None]
    shown = [tag("div", *confused, class_="panels")] if confused else []
    return [*shown, *folds]


def _confusions(number: int, run: "Run") -> Markup | None:
    confusions, classes = run.details.confusions, run.details.classes
    if confusions is None or classes is None or not confusions.pairs:
        return None
    body = [
        tag(
            "tr",
            tag("td", run.class_name(label)),
            tag("td", run.class_name(answer)),
            tag("td", f"{units.count(times)} of {units.count(classes.rows[label])}", class_="number"),
        )
        for label, answer, times in confusions.pairs[:_MOST_PAIRS]
    ]
    head = [tag("th", title, scope="col") for title in ("Is", "Taken for", "Images")]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="settings")
    return tag("div", tag("h3", swatch(number), run.name), table, class_="panel")


def _classes(number: int, run: "Run") -> Markup | None:
    """The classes that are found least come first."""
    counts = run.details.classes
    if counts is None:
        return None
    labels = [label for label, rows in enumerate(counts.rows) if rows]
    labels.sort(key=lambda label: (counts.hits[label] / counts.rows[label], label))
    titles = ("Class", "Images", "Found (recall)", "Right answers (precision)", "F1")
    head = [tag("th", title, scope="col") for title in titles]
    body = [_row(run.class_name(label), counts, label) for label in labels[:_MOST_CLASSES]]
    size = f"{units.count(len(labels))} classes with test images, those found least first"
    if len(labels) > _MOST_CLASSES:
        size += f", {units.count(_MOST_CLASSES)} of them"
    title = tag("summary", swatch(number), tag("span", run.name, class_="run"), tag("span", size, class_="beside"))
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="settings")
    return tag("details", title, tag("div", table, class_="wide"))


def _row(name: str, counts: "ClassCounts", label: int) -> Markup:
    found = proportion(counts.hits[label], counts.rows[label])
    ends = tag("span", units.interval(found.low, found.high), class_="beside")
    f1 = counts.f1(label)
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", units.count(counts.rows[label]), class_="number"),
        tag("td", units.percent(found.value), " ", ends, class_="number"),
        tag("td", units.percent(counts.precision(label)), class_="number"),
        tag("td", units.percent(f1), class_="number"),
    )
