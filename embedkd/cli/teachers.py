"""``embedkd teachers``: which there are, and what one of them offers."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedkd.cli.options import AsJson
from embedkd.cli.output import print_json, print_rows, say

if TYPE_CHECKING:
    from embedkd.records import OutputSpec, TeacherSpec
    from embedkd.teachers import ResolvedName
    from embedkd.teachers.known.model import KnownModel

Facts = dict[str, Any]
_KINDS = {
    "packaged": "weights that a pip package carries",
    "vit": "ViT, DINO, DINOv2 and DeiT of transformers",
    "openclip": "every model of open_clip; openclip:MODEL@TAG names its weights",
    "timm": "every model of timm",
    "hf": "CLIP, SigLIP and other vision towers of transformers: hf:ORGANISATION/MODEL",
}


def teachers_command(
    name: Annotated[
        str | None, typer.Argument(help="A family (openclip), or a teacher (openclip:ViT-B-32, a folder) to show.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Teachers: families, the models known by name, and what one of them offers."""
    from embedkd.teachers import resolve_name
    from embedkd.teachers.families import FAMILIES

    if name is None or name.rstrip(":") in FAMILIES:
        families = [name.rstrip(":")] if name else list(FAMILIES)
        _list({family: FAMILIES[family].models for family in families}, as_json=as_json)
        return
    resolved = resolve_name(name)
    known = FAMILIES[resolved.family].models.get(resolved.model)
    facts = _known_facts(resolved, known) if known and not resolved.weights else _loaded_facts(resolved, name)
    tags = FAMILIES[resolved.family].tags
    if tags is not None and not resolved.weights:
        facts["tags"] = ", ".join(tags(resolved.model))
    if as_json:
        print_json(facts)
        return
    width = max(map(len, facts))
    for label, value in facts.items():
        if value not in (None, "", []):
            say(f"{label.replace('_', ' '):<{width}}  {_text(value)}")
    say(f"\nuse it: embedkd precompute --teacher {name} --data SHARDS")


def _list(families: "dict[str, Any]", *, as_json: bool) -> None:
    from embedkd.teachers import resolve_name

    found = {
        family: [_known_facts(resolve_name(f"{family}:{model}"), known) for model, known in models.items()]
        for family, models in families.items()
    }
    if as_json:
        print_json(found)
        return
    for number, (family, entries) in enumerate(found.items()):
        say(f"{'' if number == 0 else chr(10)}{family}: {_KINDS[family]}")
        rows = [
            (
                entry["teacher"].partition(":")[2],
                ", ".join(f"{output['name']} {output['dim']}" for output in entry["outputs"]),
                f"{entry['parameters'] / 1e6:.1f} M",
                entry["preprocess"].partition(", mean")[0],
                entry["licence"] or "-",
            )
            for entry in entries
        ]
        if rows:
            print_rows(("teacher", "outputs and widths", "parameters", "preprocess", "licence"), rows)
    say("\nembedkd teachers NAME shows one; a folder that one of these libraries saved is a name too")


def _known_facts(resolved: "ResolvedName", known: "KnownModel") -> Facts:
    return {
        "teacher": resolved.name,
        "weights": resolved.source,
        "outputs": _outputs(known.outputs),
        "parameters": known.parameters,
        "preprocess": str(known.preprocess),
        "licence": known.licence,
        "note": resolved.note,
    }


def _loaded_facts(resolved: "ResolvedName", name: str) -> Facts:
    """What a teacher says of itself that no table knows: one with weights of its own, or with drawn ones."""
    from embedkd.teachers import LoadOptions, load_teacher

    teacher = load_teacher(name, LoadOptions(random_seed=None if resolved.weights else 0))
    spec, backbone = teacher.spec, teacher.backbone
    facts: Facts = {
        "teacher": spec.name,
        "weights": spec.source if resolved.weights else resolved.source,
        "outputs": _outputs(spec.outputs),
        "inner_layers": spec.layers,
        "parameters": None if backbone is None else sum(p.numel() for p in backbone.module.parameters()),
        "preprocess": str(spec.preprocess),
        **_details(spec),
    }
    return facts | ({"weights_sha256": spec.weights_sha256} if resolved.weights else {})


def _details(spec: "TeacherSpec") -> Facts:
    return {
        "architecture": spec.model,
        "tokenizer": spec.tokenizer,
        "licence": spec.licence,
        "derived_from": spec.derived_from,
    }


def _outputs(outputs: "tuple[OutputSpec, ...]") -> list[Facts]:
    return [{"name": output.name, "dim": output.dim} for output in outputs]


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(f"{output['name']} {output['dim']}" for output in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
