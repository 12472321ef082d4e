"""Which curves a page shows: validation accuracy, losses and learning rate of all runs together."""

from collections import defaultdict
from typing import TYPE_CHECKING

from embedkd.report.figures import Curve, Drawing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embedkd.report.figures import Scale
    from embedkd.report.runs import Record, Run

Points = list[tuple[float, float]]

_MOST_POINTS = 200
_WIDE = 50


def drawings(runs: "Sequence[Run]") -> "Iterator[Drawing]":
    """The drawings that have something to show: first what counts, then what explains it."""
    yield from _shown("Validation top-1", "epoch", [_validation(run) for run in runs], scale="share")
    yield from _losses("Training loss", [_epoch_means(run, _total) for run in runs])
    if any(len(run.losses) > 1 for run in runs):
        for name in dict.fromkeys(name for run in runs for name in run.losses):
            yield from _losses(name, [_epoch_means(run, _term(name)) for run in runs])
    yield from _shown("Learning rate", "step", [_rates(run) for run in runs])


def _losses(title: str, points: "Sequence[Points]") -> "Iterator[Drawing]":
    """By orders of magnitude where they differ by some, as sums with large weights do."""
    values = [y for pairs in points for _, y in pairs]
    wide = bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)
    yield from _shown(title, "epoch", points, scale="log" if wide else "linear")


def _shown(title: str, x_label: str, points: "Sequence[Points]", *, scale: "Scale" = "linear") -> "Iterator[Drawing]":
    """A drawing, if any run has points for it; the greatest share of each run is marked."""
    curves = []
    for number, pairs in enumerate(points):
        if pairs:
            x, y = zip(*pairs, strict=True)
            curves.append(Curve(number, x, y, mark=y.index(max(y)) if scale == "share" else None))
    if curves:
        yield Drawing(title, x_label, curves, scale)


def _validation(run: "Run") -> Points:
    return [(line["epoch"], line["top1"]) for line in run.validations]


def _epoch_means(run: "Run", value_of: "Callable[[Record], float | None]") -> Points:
    """The mean of the logged steps of each epoch, the last one as far as it got."""
    values: dict[int, list[float]] = defaultdict(list)
    for line in run.steps:
        value = value_of(line)
        if value is not None:
            values[line["epoch"]].append(value)
    return [(epoch, sum(found) / len(found)) for epoch, found in values.items()]


def _total(line: "Record") -> float | None:
    return line.get("loss")


def _term(name: str) -> "Callable[[Record], float | None]":
    return lambda line: line.get("terms", {}).get(name)


def _rates(run: "Run") -> Points:
    """Evenly thinned, with the first and the last step."""
    points = [(line["step"], line["lr"]) for line in run.steps if "lr" in line]
    if len(points) <= _MOST_POINTS:
        return points
    last = len(points) - 1
    return [points[round(i * last / (_MOST_POINTS - 1))] for i in range(_MOST_POINTS)]
