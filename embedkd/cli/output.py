"""Lines, tables and JSON for people and scripts; whatever strangers wrote is made harmless here.

Every command prints through this module. JSON needs no care: it is ASCII, with everything else escaped.
"""

import json
from collections.abc import Sequence

import typer

from embedkd.errors import printable, printable_lines


def say(text: object = "", *, err: bool = False) -> None:
    """Print lines; line ends are ours, all else that a terminal would act on is spelt out.

    Args:
        text: What to print, as `str` gives it.
        err: Print it on standard error.
    """
    typer.echo(printable_lines(str(text)), err=err)


def print_json(document: object) -> None:
    """One JSON object, for scripts."""
    typer.echo(json.dumps(document, indent=2, sort_keys=True))


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest cell; numbers to the right."""
    shown = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(header))]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    for row in shown:
        cells = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        say("  ".join(cells).rstrip())


def _is_number(cell: str) -> bool:
    return (
        cell.replace(".", "").replace(",", "").replace("%", "").replace("/", "").strip("+- M").isdigit() or cell == "-"
    )
