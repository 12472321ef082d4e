"""Tables and JSON on standard output."""

import json
from collections.abc import Sequence

import typer


def print_json(document: object) -> None:
    """One JSON object, for scripts."""
    typer.echo(json.dumps(document, indent=2, sort_keys=True))


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest cell; numbers to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    for row in (header, *rows):
        cells = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _is_number(cell: str) -> bool:
    return (
        cell.replace(".", "").replace(",", "").replace("%", "").replace("/", "").strip("+- M").isdigit() or cell == "-"
    )
