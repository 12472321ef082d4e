"""One page about runs, whole in itself: no script, no font and no picture from elsewhere."""

from importlib import resources
from typing import TYPE_CHECKING

from embedkd import __version__
from embedkd.report import units
from embedkd.report.classes import class_tables
from embedkd.report.curves import drawings
from embedkd.report.figures import Drawing, draw
from embedkd.report.markup import Markup, render, tag
from embedkd.report.measures import measures_table, reliability
from embedkd.report.notes import notes
from embedkd.report.runs import Run, read_runs
from embedkd.report.settings import flatten, settings
from embedkd.report.table import results_table, swatch
from embedkd.report.targets import targets_of
from embedkd.storage import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def write_report(runs: "Sequence[Path]", out: "Path") -> "Path":
    """Write one self-contained HTML page about runs, finished or not; the same bytes for the same folders.

    Args:
        runs: Run folders, in the order of the page.
        out: The page.

    Returns:
        ``out``.

    Raises:
        TrainingError: There is no run, or a folder holds none or one that cannot be read.
        StorageError: The page could not be written.
    """
    page = render_page(read_runs(runs))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page.encode())
    return out


def render_page(runs: "Sequence[Run]") -> str:
    """The page's text."""
    title = f"embedkd: {', '.join(run.name for run in runs)}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(resources.files("embedkd.report").joinpath("report.css").read_text(encoding="utf-8"))),
    )
    body = tag(
        "body",
        tag("header", *_header(runs)),
        tag(
            "main",
            *_results(runs),
            *_curves(runs),
            *_measures(runs),
            *_classes(runs),
            *_targets(runs),
            *_settings(runs),
        ),
        tag("footer", f"Written by embedkd {__version__}. All of it is read from the run folders and their stores."),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _header(runs: "Sequence[Run]") -> list[Markup]:
    teachers = _distinct(run.fact("teacher") for run in runs)
    rows = _distinct(run.fact("train_rows") for run in runs)
    facts = [
        f"{_distinct(run.setting('student', 'name') for run in runs)}",
        f"{_distinct(run.setting('train', 'epochs') for run in runs)} epochs",
        f"{rows} training images" if rows else "",
        f"targets of {teachers}" if teachers else "",
    ]
    return [
        tag("p", "embedkd report", class_="kicker"),
        tag("h1", runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"),
        tag("p", " \N{MIDDLE DOT} ".join(filter(None, facts)), class_="lead"),
    ]


def _distinct(values: "Iterable[object]") -> str:
    """Each value once, in order of appearance; nothing where all are missing."""
    return " and ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _results(runs: "Sequence[Run]") -> list[Markup]:
    caveats = notes(runs)
    return [
        tag("h2", "Results"),
        tag("figure", results_table(runs), tag("figcaption", tag("b", "Table 1. "), _caption(runs))),
        *([tag("aside", tag("h3", "Notes"), tag("ul", *(tag("li", note) for note in caveats)))] if caveats else []),
    ]


def _caption(runs: "Sequence[Run]") -> Markup:
    rows = {run.test_rows for run in runs if run.test_rows}
    size = f" of {units.count(max(rows))} images" if len(rows) == 1 else ""
    parts = [
        "The student kept is the best one on the validation split; it is reported on the test split"
        f"{size}, with Wilson's 95\N{NO-BREAK SPACE}% interval."
    ]
    if len(runs) > 1:
        parts.append("One run of each cannot tell apart what overlaps: that takes folds and seeds.")
    if any(run.measured("knn") for run in runs):
        bank = next(run.evaluation.bank_rows for run in runs if run.evaluation and run.evaluation.bank_rows)
        parts.append(f"k-NN: vote of the nearest of {units.count(bank)} training embeddings by cosine.")
    kinds = {(run.fact("memory") or {}).get("kind") for run in runs}
    if "rss" in kinds:
        parts.append("Peak memory: resident pages that training added to the imported libraries', of the whole.")
    if "cuda" in kinds:
        parts.append("Peak memory: allocated on the CUDA device.")
    parts.append("Time is of the whole run, validation included.")
    return render(" ".join(parts))


def _curves(runs: "Sequence[Run]") -> list[Markup]:
    shown = list(drawings(runs))
    if not shown:
        return []
    caption = (
        "Losses are means over an epoch's logged steps: first the weighted sum, which does not compare between "
        "different terms, then each term before its weight. A point marks the student that was kept."
    )
    return [
        tag("h2", "Curves"),
        tag(
            "figure",
            _legend(runs, range(len(runs))),
            tag("div", *(_panel(i, drawing) for i, drawing in enumerate(shown)), class_="panels"),
            tag("figcaption", tag("b", "Figure 1. "), caption),
        ),
    ]


def _panel(number: int, drawing: Drawing) -> Markup:
    letter = chr(ord("a") + number)
    title = tag("code", drawing.title) if drawing.title.islower() else drawing.title
    scale = tag("b", " (logarithmic)") if drawing.scale == "log" else ""
    return tag("div", tag("h3", tag("b", f"({letter}) "), title, scale), draw(drawing), class_="panel")


def _measures(runs: "Sequence[Run]") -> list[Markup]:
    """Every number that was measured, and the reliability diagrams."""
    table, shown = measures_table(runs), list(reliability(runs))
    parts = []
    if table is not None:
        caption = (
            "Everything measured on the test split; intervals of 95\N{NO-BREAK SPACE}%, Wilson's where images are "
            "counted and basic bootstrap of the rest. docs/evaluation.md defines each."
        )
        parts.append(tag("figure", table, tag("figcaption", tag("b", "Table 2. "), caption)))
    if shown:
        caption = (
            "Accuracy against confidence in bins of equal width, the area of a mark by its share of the images: small "
            "ones say little. Below the line the student claims more than it knows."
        )
        parts.append(
            tag(
                "figure",
                _legend(runs, range(len(runs))),
                tag("div", *(_panel(i, drawing) for i, drawing in enumerate(shown)), class_="panels"),
                tag("figcaption", tag("b", "Figure 2. "), caption),
            )
        )
    return [tag("h2", "Measures"), *parts] if parts else []


def _classes(runs: "Sequence[Run]") -> list[Markup]:
    tables = class_tables(runs)
    return [tag("h2", "Classes"), *tables] if tables else []


def _targets(runs: "Sequence[Run]") -> list[Markup]:
    parts = [tag("h2", "Teacher and store")]
    for numbers, facts in targets_of(runs):
        parts += [_legend(runs, numbers), _facts(facts)]
    return parts if len(parts) > 1 else []


def _settings(runs: "Sequence[Run]") -> list[Markup]:
    environments: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        environments.setdefault(tuple(flatten(run.environment)), []).append(run)
    parts = [tag("h2", "Settings"), settings(runs), tag("h2", "Environment")]
    for pairs, users in environments.items():
        if len(environments) > 1:
            parts.append(tag("p", ", ".join(run.name for run in users)))
        used = [(name, _distinct(run.fact(name) for run in users)) for name in ("device", "precision")]
        versions = [(name.removeprefix("packages."), value.strip('"')) for name, value in pairs]
        parts.append(_facts([*((name, value) for name, value in used if value), *versions]))
    return parts


def _facts(facts: "Sequence[tuple[str, str]]") -> Markup:
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts))


def _legend(runs: "Sequence[Run]", numbers: "Sequence[int]") -> Markup:
    """Which colour is which run; nothing where the page has but one."""
    if len(runs) == 1:
        return render()
    return tag("ul", *(tag("li", swatch(i), tag("span", runs[i].name)) for i in numbers), class_="legend")
