"""``embedkd precompute``, ``average`` and ``store``."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedkd.cli.options import AsJson, ConfigFile, Data, Sets
from embedkd.cli.output import print_json, print_rows
from embedkd.cli.progress import watcher

if TYPE_CHECKING:
    from embedkd.precompute import PrecomputeResult

store_app = typer.Typer(help="Look at embedding stores.", no_args_is_help=True)
StorePath = Annotated[str, typer.Argument(metavar="STORE", help="The embedding store.")]


def precompute_command(
    teacher: Annotated[
        list[str] | None,
        typer.Option(help="Name, e.g. ViT-L-32, vit:ViT-L-32@FOLDER; repeat it to run several over the data at once."),
    ] = None,
    data: Data = None,
    out: Annotated[str | None, typer.Option(help="The store; an existing one is gone on with.")] = None,
    outputs: Annotated[
        str | None, typer.Option(help="Comma-separated outputs, e.g. cls,image,text,cls@-4; by default each teacher's.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a forward pass.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    compile_teacher: Annotated[
        bool | None, typer.Option("--compile", help="Run teachers through torch.compile; recorded with the pass.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="trained, or random: drawn by precompute.seed, for dry runs and controls.")
    ] = None,
    trust_code: Annotated[
        str | None, typer.Option(metavar="NAME", help="The repository or folder whose own model code may be run.")
    ] = None,
    class_prompts: Annotated[
        str | None, typer.Option(metavar="clip|simple|FILE", help="Store texts of the class names in these templates.")
    ] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Run teachers once over shards and store what they say."""
    from embedkd.config import load_config
    from embedkd.precompute import EMBEDDED_DATA, precompute
    from embedkd.teachers import resolve_name

    values: dict[str, Any] = {
        "data.shards": data,
        "precompute.teachers": teacher or None,
        "precompute.out": out,
        "precompute.outputs": None if outputs is None else [name.strip() for name in outputs.split(",")],
        "precompute.batch_size": batch_size,
        "precompute.device": device,
        "precompute.compile": compile_teacher,
        "precompute.weights": weights,
        "precompute.trust_code": trust_code,
        "precompute.class_prompts": class_prompts,
    }
    settings = load_config(config, values=values, sets=sets or [])
    watch = watcher()
    for name in settings.precompute.teachers:
        note = resolve_name(name).note
        if note:
            watch.line(f"note: {note}")
    if settings.data.shards is None:
        watch.line(f"note: no --data given, taking the embedded data set {EMBEDDED_DATA}")
    result = precompute(settings, watch)
    if as_json:
        print_json(asdict(result))
    else:
        _print_result(result)


def _print_result(result: "PrecomputeResult") -> None:
    names = ", ".join(entry.teacher_id for entry in result.teachers)
    if not result.computed:
        typer.echo(f"{result.store} is finished: {result.rows} rows of {names}; nothing to do")
    else:
        rate = result.computed / max(result.seconds, 1e-9)
        unit = "images" if len(result.teachers) == 1 else "rows"
        typer.echo(
            f"{result.store}: {result.computed} of {result.rows * len(result.teachers)} rows computed "
            f"in {result.seconds:.1f} s ({rate:.1f} {unit}/s)"
        )
    for entry in result.teachers:
        if len(result.teachers) > 1:
            typer.echo(f"{entry.teacher_id}: {entry.computed} of {result.rows} rows computed")
        if entry.random_weights:
            typer.echo("  random weights: rows for dry runs; train refuses them without --allow-random-teacher")
        for output, sets in entry.class_sets.items():
            typer.echo(f"  {output}: class means {', '.join(sets) or 'none (no labels)'}")
        if entry.bad:
            reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in entry.bad.items())
            typer.echo(f"  rows without an embedding: {reasons}")
    if result.computed:
        typer.echo(f"next: embedkd train --targets {result.store}{_flags(result)} --student vit-tiny")


def _flags(result: "PrecomputeResult") -> str:
    """What train must be told about this store."""
    from embedkd.store import open_store

    first = result.teachers[0]
    several = len(open_store(result.store).teacher_ids) > 1
    return (f" --teacher {first.teacher_id}" if several else "") + (
        " --allow-random-teacher" if first.random_weights else ""
    )


def average_command(
    store: StorePath,
    per_class: Annotated[int | None, typer.Option(help="Samples a class; a class with fewer uses all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Chooses the samples.")] = None,
    output: Annotated[str | None, typer.Option(help="One output; all by default.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Which teacher, where the store has several.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the class set.")] = None,
) -> None:
    """Average stored rows of the training split, class by class."""
    from embedkd.config import load_config
    from embedkd.precompute import add_class_set
    from embedkd.store import open_store

    settings = load_config(values={"average.per_class": per_class, "average.seed": seed}).average
    view = open_store(store).teacher(teacher)
    for one in [output] if output else view.outputs:
        made = add_class_set(view, one, settings, watcher(), name)
        if made is not None:
            filled = int((made.count > 0).sum())
            typer.echo(
                f"{one}: class set {made.name}, {filled} of {len(made.count)} classes, {int(made.count.sum())} rows"
            )


@store_app.command("info")
def store_info(store: StorePath, as_json: AsJson = False) -> None:
    """What is in a store."""
    from embedkd.precompute import describe_store

    facts = describe_store(store)
    if as_json:
        print_json(facts)
        return
    typer.echo(f"{facts['store']} (format {facts['format']}, {facts['store_uuid']})")
    splits = ", ".join(f"{count} {split}" for split, count in facts["splits"].items())
    typer.echo(f"data: {facts['data']}, {facts['shards']} shards, {facts['rows']} samples ({splits})")
    classes = facts["classes"]
    typer.echo(f"classes: {len(classes) if classes else 'not named'}; rows a slot: {facts['capacity']}")
    for teacher in facts["teachers"]:
        typer.echo(f"\n{teacher['id']}: {teacher['model']} ({teacher['licence'] or 'licence not given'})")
        rows = [
            (
                o["name"],
                str(o["dim"]),
                o["dtype"],
                f"{o['committed']}/{facts['slots']}",
                str(o["usable"]),
                ", ".join(o["class_sets"]) or "-",
            )
            for o in teacher["outputs"]
        ]
        print_rows(("output", "width", "dtype", "slots", "rows", "class sets"), rows)
