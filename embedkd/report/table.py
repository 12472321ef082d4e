"""The table of results: a row a run, and beside its accuracy the interval drawn to one scale."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.report import units
from embedkd.report.figures import run_colour, run_dashes
from embedkd.report.markup import Markup, render, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.evaluation import Estimate
    from embedkd.report.runs import Run

_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_MOST_TICKS = 4
_MARK_Y = "1.15rem"  # the middle of a row's first line


@dataclass(frozen=True)
class Scale:
    """A part of the axis of shares that holds all intervals, from tick to tick.

    Attributes:
        low: Its left end.
        high: Its right end.
        step: From tick to tick.
    """

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, estimates: "Sequence[Estimate]") -> "Scale":
        """The narrowest one with few ticks.

        Args:
            estimates: At least one.
        """
        low = min(e.value if e.low is None else e.low for e in estimates)
        high = max(e.value if e.high is None else e.high for e in estimates)
        for step in _TICKS:
            first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
            if last - first <= _MOST_TICKS:
                return cls(first * step, last * step, step)
        return cls(0.0, 1.0, _TICKS[-1])

    @property
    def ticks(self) -> list[float]:
        """From end to end."""
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]

    def at(self, share: float) -> str:
        """Where a share lies, as a length of CSS."""
        return f"{100 * (share - self.low) / (self.high - self.low):.2f}%"


def swatch(run: int) -> Markup:
    """A short line as the run's curves are drawn."""
    dashes = " ".join(f"{2 * length:g}" for length in run_dashes(run)) or None
    line = tag("line", x1=1, x2=21, y1=5, y2=5, stroke=run_colour(run), stroke_width=2.5, stroke_dasharray=dashes)
    return tag("svg", line, class_="swatch", viewBox="0 0 22 10", aria_hidden="true")


def results_table(runs: "Sequence[Run]") -> Markup:
    """All runs, in their order."""
    known = [estimate for run in runs if (estimate := run.test_top1) is not None]
    scale = Scale.over(known) if known else None
    columns = [
        ("Run", "name"),
        ("Student", "text"),
        ("Validation top-1", "number"),
        ("Test top-1", "number"),
        *([(_axis(scale), "axis")] if scale is not None else []),
        *([("Test top-5", "number")] if any(run.measured("top5") for run in runs) else []),
        ("k-NN", "number"),
        ("Peak memory", "number"),
        ("Time", "number"),
    ]
    head = [tag("th", title, scope="col", class_=kind) for title, kind in columns]
    body = [_row(number, run, [title for title, _ in columns], scale) for number, run in enumerate(runs)]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="results")
    return tag("div", table, class_="wide", tabindex="0", role="region", aria_label="Results")


def _row(number: int, run: "Run", columns: "Sequence[object]", scale: Scale | None) -> Markup:
    cells = {
        "Student": (_student(run), "text"),
        "Validation top-1": (_validation(run), "number"),
        "Test top-1": (_share(run.test_top1), "number main"),
        "Test top-5": (_share(run.measured("top5")), "number"),
        "k-NN": (_share(run.measured("knn")), "number"),
        "Peak memory": (_memory(run), "number"),
        "Time": (_time(run), "number"),
    }
    row = [tag("th", *_name(number, run), scope="row", class_="name")]
    for column in columns[1:]:
        if isinstance(column, Markup):
            row.append(tag("td", _whisker(number, run.test_top1, scale), class_="axis"))
            continue
        content, kind = cells[str(column)]
        row.append(tag("td", content, class_=kind, data_label=column))
    return tag("tr", *row, class_=None if run.finished else "unfinished")


def _name(number: int, run: "Run") -> list[Markup]:
    parts = [swatch(number), tag("span", run.name, class_="run"), tag("span", _recipe(run), class_="recipe")]
    if not run.finished:
        state = "stopped by a loss that is not finite" if run.failed else "running or interrupted"
        parts.append(tag("span", f"{state}, {run.progress}", class_="state"))
    return parts


def _recipe(run: "Run") -> str:
    if list(run.losses.values()) == [1]:
        return next(iter(run.losses))
    return " + ".join(f"{weight:g}\N{NO-BREAK SPACE}{name}" for name, weight in run.losses.items())


def _student(run: "Run") -> Markup:
    model = f"{run.setting('student', 'name')}, {run.setting('student', 'image_px')}\N{NO-BREAK SPACE}px"
    return _beside(model, f"{units.magnitude(run.parameters)} parameters")


def _memory(run: "Run") -> Markup:
    memory = run.fact("memory") or {}
    whole = f"of {units.size(memory['peak_bytes'])}" if "peak_bytes" in memory else ""
    return _beside(units.size(memory.get("net_bytes")), whole)


def _time(run: "Run") -> Markup:
    rate = "" if run.steps_per_s is None else f"{units.rate(run.steps_per_s)}\N{NO-BREAK SPACE}steps/s"
    return _beside(units.duration(run.elapsed_s), rate)


def _validation(run: "Run") -> Markup:
    return _beside(
        units.percent(run.val_top1), "" if run.val_top1 is None else f"epoch\N{NO-BREAK SPACE}{run.best_epoch}"
    )


def _share(estimate: "Estimate | None") -> Markup:
    if estimate is None:
        return render(units.MISSING)
    return _beside(units.percent(estimate.value), units.interval(estimate.low, estimate.high))


def _beside(value: str, detail: str) -> Markup:
    return render(value, " ", tag("span", detail, class_="beside")) if detail else render(value)


def _axis(scale: Scale) -> Markup:
    """The numbers of the ticks, above the column of intervals."""
    labels = [tag("text", f"{100 * share:.0f}", x=scale.at(share), y=11) for share in scale.ticks]
    return tag("svg", *labels, class_="whisker", role="img", aria_label="Scale of the intervals, in percent")


def _whisker(number: int, estimate: "Estimate | None", scale: Scale | None) -> Markup:
    if scale is None:
        return render()
    marks = [tag("line", x1=scale.at(t), x2=scale.at(t), y1=0, y2="100%", class_="tick") for t in scale.ticks]
    colour = run_colour(number)
    if estimate is not None:
        low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
        line = {"x1": scale.at(low), "x2": scale.at(high), "y1": _MARK_Y, "y2": _MARK_Y}
        marks.append(tag("line", **line, stroke=colour, stroke_width=2))
        marks.append(tag("circle", cx=scale.at(estimate.value), cy=_MARK_Y, r=4, fill=colour))
    return tag("svg", *marks, class_="whisker", aria_hidden="true")
