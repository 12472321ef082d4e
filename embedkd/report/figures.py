"""Curves as SVG that is part of a page: it takes the page's font and colours, and scales with its column.

The home of matplotlib. What it draws is rewritten: colours become CSS variables, so that one drawing serves light,
dark and paper; fonts are inherited; ids that nothing refers to are dropped, since a page holds several drawings.
"""

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from embedkd.report.markup import Markup, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

Scale = Literal["linear", "log", "share", "calibration"]

COLOURS = 5
"""Colours of runs, told apart by colour-blind readers too; the style sheet defines ``--run-0`` to ``--run-4``."""

DASHES: tuple[tuple[float, ...], ...] = ((), (4.0, 1.6), (1.2, 1.4), (5.0, 1.4, 1.2, 1.4))
"""Dash patterns in multiples of the line's width, as matplotlib reads them; each serves ``COLOURS`` runs."""

_WIDTH_PX, _HEIGHT_PX, _POINTS_PER_INCH = 400, 244, 72
_LINE_WIDTH, _THIN_WIDTH = 1.5, 0.7
_AREA, _LEAST_AREA = 250.0, 6.0  # of the mark for all samples, and of one that can still be seen; square points
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}

# Colours that matplotlib carries through and that stand for the page's; black it would leave out as SVG's default.
_INK, _GRID = "#0100fe", "#0100fd"
_STAND_INS = {
    _INK: "var(--muted)",
    _GRID: "var(--rule)",
    **{f"#0100{run:02x}": f"var(--run-{run})" for run in range(COLOURS)},
}
_REWRITES = (
    (r'<g id="[^"]*">', "<g>"),
    (r'<g id="[^"]*"/>', ""),
    (r" font-family: [^;\"]*;?", ""),
    (r' transform="rotate\(-0 [^"]*\)"', ""),
    (r"xlink:href", "href"),
    (r"\s*\n\s*", " "),
    (r"> <", "><"),
)


@dataclass(frozen=True)
class Curve:
    """One line of a drawing.

    Attributes:
        run: Position of its run on the page, which decides colour and dashes.
        x: Where it was measured.
        y: What was measured, finite.
        mark: Position of a point to mark; None marks none.
        sizes: Where all points are marked, the share of the samples that each stands for.
    """

    run: int
    x: "Sequence[float]"
    y: "Sequence[float]"
    mark: int | None = None
    sizes: "Sequence[float] | None" = None


@dataclass(frozen=True)
class Drawing:
    """Curves that share axes.

    Attributes:
        title: What the y axis shows; read out in place of the drawing.
        x_label: Name of the x axis.
        curves: In the order of their runs.
        scale: Of y; a share is shown in percent and from 0; of a calibration both axes are shares, and equal ones are
            a line across.
    """

    title: str
    x_label: str
    curves: "Sequence[Curve]"
    scale: Scale = "linear"


def run_colour(run: int) -> str:
    """The CSS colour of a run."""
    return f"var(--run-{run % COLOURS})"


def run_dashes(run: int) -> tuple[float, ...]:
    """The dash pattern of a run, in multiples of the line's width; runs of one colour differ in it."""
    return DASHES[run // COLOURS % len(DASHES)]


def draw(drawing: Drawing) -> Markup:
    """The drawing as an ``<svg>`` element; the same bytes for the same curves."""
    salt = drawing.title  # ids must differ between the drawings of a page, and never from one day to the next
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 11.5, "axes.linewidth": 0.8}):
        figure = Figure(figsize=(_WIDTH_PX / _POINTS_PER_INCH, _HEIGHT_PX / _POINTS_PER_INCH))
        axes = figure.add_axes((0.13, 0.18, 0.855, 0.79))
        for curve in drawing.curves:
            _plot(axes, curve)
        _dress(axes, drawing)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    return _embed(buffer.getvalue(), drawing.title)


def _plot(axes: "Axes", curve: Curve) -> None:
    colour = _stand_in(curve.run)
    dashes = run_dashes(curve.run)
    style = (0, dashes) if dashes else "-"
    width = _LINE_WIDTH if curve.sizes is None else _THIN_WIDTH  # the marks tell what the line only leads along
    axes.plot(curve.x, curve.y, color=colour, linewidth=width, linestyle=style, clip_on=False)
    if curve.sizes is not None:
        areas = [max(_LEAST_AREA, _AREA * size) for size in curve.sizes]
        axes.scatter(curve.x, curve.y, s=areas, color=colour, linewidths=0, clip_on=False)
        return
    marked = 0 if len(curve.x) == 1 else curve.mark
    if marked is not None:
        at = (curve.x[marked], curve.y[marked])
        axes.plot(*at, color=colour, marker="o", markersize=5.0, markeredgewidth=0, clip_on=False)


def _dress(axes: "Axes", drawing: Drawing) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.grid(axis="y", color=_GRID, linewidth=0.7, clip_on=False)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0, pad=4)
    axes.tick_params(axis="x", length=3)
    axes.set_xlabel(drawing.x_label, color=_INK)
    if drawing.scale == "calibration":
        _scale_both(axes)
        return
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.margins(x=0.015)
    _scale_y(axes, drawing.scale)


def _scale_both(axes: "Axes") -> None:
    """Shares from 0 to 1 both ways, and the line of equal ones."""
    axes.plot((0, 1), (0, 1), color=_INK, linewidth=0.8, linestyle=(0, (3.0, 3.0)), zorder=0)
    percent = FuncFormatter(lambda value, _: f"{100 * value:.3g}\N{NO-BREAK SPACE}%")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5))
        axis.set_major_formatter(percent)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _scale_y(axes: "Axes", scale: Scale) -> None:
    form = "{:.5g}"
    if scale == "log":
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    if scale == "share":
        axes.set_ylim(bottom=0)
        form = "{:.3g}\N{NO-BREAK SPACE}%"
    unit = 100 if scale == "share" else 1
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: form.format(unit * value)))


def _stand_in(run: int) -> str:
    return f"#0100{run % COLOURS:02x}"


def _embed(svg: str, title: str) -> Markup:
    """The drawing's part of matplotlib's file, in the page's own terms. Its text was escaped by matplotlib."""
    body = svg[svg.index("</defs>") + len("</defs>") : svg.rindex("</svg>")]
    for colour, variable in _STAND_INS.items():
        body = body.replace(colour, variable)
    for pattern, replacement in _REWRITES:
        body = re.sub(pattern, replacement, body)
    return tag("svg", Markup(body.strip()), viewBox=f"0 0 {_WIDTH_PX} {_HEIGHT_PX}", role="img", aria_label=title)
