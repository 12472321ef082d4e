"""``embedkd precompute``, ``average`` and ``store``."""

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedkd.cli.options import AsJson, ConfigFile, Data, Sets, StorePath
from embedkd.cli.output import print_json, say
from embedkd.cli.progress import watcher
from embedkd.errors import ConfigError
from embedkd.records import ELSEWHERE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedkd.config import Config
    from embedkd.precompute import PrecomputeResult

store_app = typer.Typer(help="Look at embedding stores.", no_args_is_help=True)

Weights = Annotated[
    str | None, typer.Option(help="trained, or random: drawn by precompute.seed, for dry runs and controls.")
]
TrustCode = Annotated[
    str | None, typer.Option(metavar="NAME", help="The repository or folder whose own model code may be run.")
]
ClassPrompts = Annotated[
    str | None, typer.Option(metavar="clip|simple|FILE", help="Store texts of the class names in these templates.")
]
Views = Annotated[
    int | None,
    typer.Option(help="Stored views beside it: the teacher's rows of so many fixed random crops of each image."),
]


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
    views: Views = None,
    encoding: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[OUTPUT=]ENCODING",
            help="float16 (the default), float32, bfloat16, int8, or top<K> of logits, e.g. top10: for all outputs, or "
            "for one (cls=int8); repeat it for several.",
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a forward pass.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    compile_teacher: Annotated[
        bool | None, typer.Option("--compile", help="Run teachers through torch.compile; recorded with the pass.")
    ] = None,
    weights: Weights = None,
    trust_code: TrustCode = None,
    class_prompts: ClassPrompts = None,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Run teachers once over shards and store what they say."""
    from embedkd.config import load_config
    from embedkd.precompute import EMBEDDED_DATA, precompute

    values: dict[str, Any] = {
        "data.shards": data,
        "precompute.teachers": teacher or None,
        "precompute.out": out,
        "precompute.outputs": None if outputs is None else [name.strip() for name in outputs.split(",")],
        "precompute.views": views,
        "precompute.encoding": encoding or None,
        "precompute.batch_size": batch_size,
        "precompute.device": device,
        "precompute.compile": compile_teacher,
        "precompute.weights": weights,
        "precompute.trust_code": trust_code,
        "precompute.class_prompts": class_prompts,
    }
    settings = load_config(config, values=values, sets=sets or [])
    watch = watcher()
    for note in _notes(settings):
        watch.line(f"note: {note}")
    result = precompute(settings, watch)
    if as_json:
        print_json(asdict(result))
    else:
        _print_result(result, settings.data.shards or EMBEDDED_DATA)


def _notes(settings: "Config") -> "Iterator[str]":
    """What a person should know of names and data before the run."""
    from embedkd.precompute import EMBEDDED_DATA
    from embedkd.teachers import resolve_name

    yield from filter(None, (resolve_name(name).note for name in settings.precompute.teachers))
    if settings.data.shards is None:
        yield f"no --data given, taking the embedded data set {EMBEDDED_DATA}"


def _print_result(result: "PrecomputeResult", data: str) -> None:
    names = ", ".join(entry.teacher_id + _and_views(entry.views) for entry in result.teachers)
    if not result.computed:
        say(f"{result.store} is finished: {result.rows} rows of {names}; nothing to do")
    else:
        rate = result.computed / max(result.seconds, 1e-9)
        unit = "images" if result.wanted == result.rows else "rows"
        say(
            f"{result.store}: {result.computed} of {result.wanted} rows computed "
            f"in {result.seconds:.1f} s ({rate:.1f} {unit}/s)"
        )
    for entry in result.teachers:
        if len(result.teachers) > 1:
            say(f"{entry.teacher_id}: {entry.computed} of {result.rows * (1 + entry.views)} rows computed")
        if entry.random_weights:
            say("  random weights: rows for dry runs; train refuses them without --allow-random-teacher")
        for output, sets in entry.class_sets.items():
            say(f"  {output}: class means {', '.join(sets) or 'none (no labels)'}")
        if entry.bad:
            reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in entry.bad.items())
            say(f"  rows without an embedding: {reasons}")
    if result.computed:
        say(f"next: embedkd train --targets {result.store}{_flags(result, data)} --student vit-tiny")


def _and_views(count: int) -> str:
    return f" and {count} {'view' if count == 1 else 'views'} of it" if count else ""


def _flags(result: "PrecomputeResult", data: str) -> str:
    """What train must be told about this store: where its shards lie if no path leads to them from where it lies."""
    from embedkd.store import open_store
    from embedkd.store.siblings import without_views

    store, first = open_store(result.store), result.teachers[0]
    flags = (
        f"--data {shlex.quote(data)}" if store.data_root == ELSEWHERE else "",
        f"--teacher {first.teacher_id}" if len(without_views(store.teachers)) > 1 else "",
        "--allow-random-teacher" if first.random_weights else "",
    )
    return "".join(f" {flag}" for flag in flags if flag)


def average_command(
    store: StorePath,
    per_class: Annotated[int | None, typer.Option(help="Samples a class; a class with fewer uses all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Chooses the samples.")] = None,
    method: Annotated[
        str | None, typer.Option(metavar="mean|median|trimmed", help="The centre of a class; of each dimension.")
    ] = None,
    trim: Annotated[
        float | None,
        typer.Option(help="Share of values that --method trimmed leaves out at each side; 0.1 by default."),
    ] = None,
    output: Annotated[str | None, typer.Option(help="One output; all by default.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Which teacher, where the store has several.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the class set; by default from method, number and seed.")] = None,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Let classes without a training row through, as NaN.")
    ] = False,
) -> None:
    """Average stored rows of the training split, class by class."""
    from embedkd.config import load_config
    from embedkd.precompute import add_class_set
    from embedkd.store import open_store

    values = {"per_class": per_class, "seed": seed, "method": method, "trim": trim}
    settings = load_config(values={f"average.{key}": value for key, value in values.items()}).average
    if trim is not None and settings.method != "trimmed":
        raise ConfigError(f"--trim belongs to --method trimmed, the method is {settings.method}")
    view = open_store(store).teacher(teacher)
    for one in [output] if output else view.outputs:
        made = add_class_set(view, one, settings, watcher(), name, allow_empty=allow_empty)
        if made is not None:
            filled = int((made.count > 0).sum())
            say(f"{one}: class set {made.name}, {filled} of {len(made.count)} classes, {int(made.count.sum())} rows")
