"""``embedkd students`` and ``losses``: what there is."""

from typing import Annotated

import typer

from embedkd.cli.output import print_rows
from embedkd.errors import UnknownNameError

Name = Annotated[str | None, typer.Argument(help="Show one of them.")]


def students_command(name: Name = None) -> None:
    """Students, with their sizes at 32 px and 100 classes."""
    from embedkd.students import STUDENTS

    if name is not None and name not in STUDENTS:
        raise UnknownNameError("student", name, STUDENTS)
    print_rows(
        ("student", "layers", "width", "heads", "patch", "parameters", "source"),
        [
            (
                *(key, str(spec.layers), str(spec.width), str(spec.heads), f"{spec.patch_px} px"),
                f"{spec.parameter_count(num_classes=100, image_px=32) / 1e6:.2f} M",
                spec.source,
            )
            for key, spec in STUDENTS.items()
            if name in {None, key}
        ],
    )


def losses_command(name: Name = None) -> None:
    """Losses: what each needs, and where it comes from."""
    from embedkd.losses import LOSSES

    if name is not None and name not in LOSSES:
        raise UnknownNameError("loss", name, LOSSES)
    print_rows(
        ("loss", "needs", "projection", "source"),
        [
            (key, ", ".join(sorted(entry.needs)), entry.projection or "-", entry.source)
            for key, entry in LOSSES.items()
            if name in {None, key}
        ],
    )
