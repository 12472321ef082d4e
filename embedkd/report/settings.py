"""What runs were asked to do: where their configs differ, and each config whole."""

import json
from typing import TYPE_CHECKING, Any

from embedkd.report import units
from embedkd.report.markup import Markup, render, tag
from embedkd.report.table import swatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from embedkd.report.runs import Run

_OF_THE_RUN = ("student", "train", "optimiser", "augment", "losses", "loss_options", "data")
"""Sections that a run's config shows; the others belong to the steps before it."""


def flatten(document: object, prefix: str = "") -> "Iterator[tuple[str, str]]":
    """Dotted keys and values as TOML would write them; nothing for an empty table.

    >>> list(flatten({"train": {"epochs": 30, "out": "run"}, "losses": {}}))
    [('train.epochs', '30'), ('train.out', '"run"')]
    """
    if not isinstance(document, dict):
        yield prefix, units.MISSING if document is None else json.dumps(document, ensure_ascii=False)
        return
    for key, value in document.items():
        yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))


def settings(runs: "Sequence[Run]") -> Markup:
    """A table of differences, where there are several runs, and a fold for each config."""
    flat = [dict(flatten(_sections(run))) for run in runs]
    keys = dict.fromkeys(key for config in flat for key in config)
    differing = [key for key in keys if len({config.get(key) for config in flat}) > 1 and key != "train.out"]
    parts = []
    if differing:
        head = [
            tag("th", "Setting", scope="col"),
            *(tag("th", *_label(i, run), scope="col") for i, run in enumerate(runs)),
        ]
        body = [
            tag("tr", tag("th", tag("code", key), scope="row"), *(_cell(config.get(key)) for config in flat))
            for key in differing
        ]
        table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="settings")
        parts.append(tag("div", table, class_="wide", tabindex="0", role="region", aria_label="Settings that differ"))
    for number, (run, config) in enumerate(zip(runs, flat, strict=True)):
        rows = [tag("tr", tag("th", tag("code", key), scope="row"), _cell(value)) for key, value in config.items()]
        title = tag("summary", *_label(number, run), tag("span", "config.json", class_="beside"))
        parts.append(tag("details", title, tag("table", tag("tbody", *rows), class_="settings")))
    return render(*parts)


def _sections(run: "Run") -> "Mapping[str, Any]":
    return {name: run.config[name] for name in _OF_THE_RUN if name in run.config}


def _label(number: int, run: "Run") -> list[Markup]:
    return [swatch(number), tag("span", run.name, class_="run")]


def _cell(value: str | None) -> Markup:
    return tag("td", tag("code", units.MISSING if value is None else value))
