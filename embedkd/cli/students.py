"""``embedkd students`` and ``export``: which students there are, what one of them costs, and a trained one as files."""

from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from embedkd.cli.options import AsJson
from embedkd.cli.output import print_json, print_rows, say

Facts = dict[str, Any]


class Format(StrEnum):
    """Formats of exports, as typer wants choices to be given."""

    safetensors = "safetensors"
    onnx = "onnx"


def students_command(
    name: Annotated[
        str | None, typer.Argument(help="A student to show (vit-base, timm:resnet18), or a pattern: 'timm:resnet*'.")
    ] = None,
    image_px: Annotated[int, typer.Option(min=1, help="Height and width of its images.")] = 32,
    classes: Annotated[int, typer.Option(min=1, help="Width of its logits.")] = 100,
    patch_px: Annotated[int | None, typer.Option(min=1, help="Height and width of a patch.")] = None,
    as_json: AsJson = False,
) -> None:
    """Students: the paper's, every model of timm, and what one of them costs."""
    if name is None:
        _list_families(as_json=as_json)
    elif name.endswith(":") or set(name) & {"*", "?"}:
        _list_names(name, as_json=as_json)
    else:
        _show(name, image_px, classes, patch_px, as_json=as_json)


def export_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    form: Annotated[Format, typer.Option("--format", help="For timm and embedkd, or for other runtimes.")] = (
        Format.safetensors
    ),
    out: Annotated[Path | None, typer.Option(help="The folder; 'export' in the run's by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's best student as files that need no run, with a model card."""
    from embedkd.export import export_run

    result = export_run(run, form=form.value, out=out)
    if as_json:
        print_json(result.to_json())
        return
    say(result)
    say(f"the card: {result.folder}/README.md")


def _list_families(*, as_json: bool) -> None:
    from embedkd.students import STUDENTS

    found = [_paper_facts(name) for name in STUDENTS]
    if as_json:
        print_json({"students": found, "families": ["timm", "torchvision"]})
        return
    print_rows(
        ("student", "layers", "width", "heads", "patch", "parameters", "source"),
        [
            (
                *(fact["student"], str(fact["layers"]), str(fact["width"]), str(fact["heads"])),
                *(f"{fact['patch_px']} px", f"{fact['parameters'] / 1e6:.2f} M", fact["source"]),
            )
            for fact in found
        ],
    )
    say(
        "\nsizes at 32 px and 100 classes\n"
        "timm:NAME         any model of timm, as timm:resnet18; embedkd students 'timm:resnet*' lists\n"
        "torchvision:NAME  the same by torchvision's names; embedkd students torchvision: lists\n"
        "NAME.TAG, NAME@PATH  begin with weights of timm's hub, of a file, of an export or of a run\n"
        "embedkd students NAME shows one"
    )


def _paper_facts(name: str) -> Facts:
    from embedkd.students import STUDENTS

    spec = STUDENTS[name]
    return {
        "student": name,
        "layers": spec.layers,
        "width": spec.width,
        "heads": spec.heads,
        "patch_px": spec.patch_px,
        "parameters": spec.parameter_count(num_classes=100, image_px=32),
        "source": spec.source,
    }


def _list_names(pattern: str, *, as_json: bool) -> None:
    """Every name that fits, one a line."""
    from embedkd.errors import UnknownNameError
    from embedkd.students import STUDENTS, TORCHVISION_NAMES, timm_names

    family = pattern.partition(":")[0]
    names = [f"torchvision:{known}" for known in TORCHVISION_NAMES]
    if family != "torchvision":
        names = [*STUDENTS, *(f"timm:{known}" for known in timm_names())]
    wanted = f"{pattern}*" if pattern.endswith(":") else pattern
    found = [known for known in names if fnmatchcase(known, wanted)]
    if not found:
        raise UnknownNameError("student", pattern, names)
    if as_json:
        print_json(found)
        return
    say("\n".join(found))


def _show(name: str, image_px: int, classes: int, patch_px: int | None, *, as_json: bool) -> None:
    from embedkd.students import StudentOptions, describe_student, resolve_name
    from embedkd.students.timm_arguments import option_names

    resolved = resolve_name(name)
    options = StudentOptions(patch_px=patch_px)
    found = describe_student(name, num_classes=classes, image_px=image_px, options=options)
    facts: Facts = {
        "student": resolved.model,
        "architecture": f"{resolved.architecture} of timm",
        "image_px": image_px,
        "num_classes": classes,
        "parameters": found.parameters,
        "multiply_adds": found.multiply_adds,
        "embedding_dim": found.embedding_dim,
        "taps": dict(found.taps),
        "options": option_names(resolved),
    }
    if as_json:
        print_json(facts)
        return
    own = [option for option in facts["options"] if not option.startswith("options.")]
    further = len(facts["options"]) - len(own)
    facts["options"] = [*own, f"and {further} arguments of timm's model (--json lists them)"]
    width = max(map(len, facts))
    for label, value in facts.items():
        say(f"{label.replace('_', ' '):<{width}}  {_text(value)}")
    say(f"\nuse it: embedkd train --targets STORE --student {name} --image-px {image_px}")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{tap} {width}" for tap, width in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
