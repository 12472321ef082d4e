"""``embedkd finetune`` and ``head``: teachers that know the classes of the data."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from embedkd.cli.options import AsJson, ConfigFile, Data, Sets
from embedkd.cli.output import print_json, say
from embedkd.cli.progress import watcher


class Kind(StrEnum):
    """Kinds of heads, as typer wants choices to be given."""

    linear = "linear"
    zero_shot = "zero-shot"


def finetune_command(
    teacher: Annotated[str | None, typer.Option(help="Name or folder; see embedkd teachers.")] = None,
    data: Data = None,
    out: Annotated[str | None, typer.Option(help="Folder of the tuned teacher; the run lies beside it.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes in which the backbone learns.")] = None,
    warmup_epochs: Annotated[
        int | None, typer.Option(help="Passes before, in which the classifier learns alone.")
    ] = None,
    last_blocks: Annotated[
        int | None, typer.Option(metavar="K", help="Tune the last K blocks and what follows them; all by default.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the classifier while the backbone learns.")] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="Factor on the rate from each part of the backbone to the one below.")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of the target spread over all classes.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order, augmentation, and what is held out.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run beside --out.")] = False,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Tune a teacher to labelled shards; the result is a folder that --teacher takes."""
    from embedkd.config import load_config
    from embedkd.finetune import finetune
    from embedkd.teachers import resolve_name

    values: dict[str, Any] = {
        "data.shards": data,
        "finetune.teacher": teacher,
        "finetune.out": out,
        "finetune.epochs": epochs,
        "finetune.warmup_epochs": warmup_epochs,
        "finetune.last_blocks": last_blocks,
        "finetune.lr": lr,
        "finetune.layer_decay": layer_decay,
        "finetune.label_smoothing": label_smoothing,
        "finetune.batch_size": batch_size,
        "finetune.seed": seed,
        "finetune.device": device,
        "finetune.precision": precision,
    }
    settings = load_config(config, values=values, sets=sets or [])
    watch = watcher()
    note = resolve_name(settings.finetune.teacher).note
    if note:
        watch.line(f"note: {note}")
    result = finetune(settings.finetune, settings.data.shards, resume=resume, progress=watch)
    if as_json:
        print_json(result.to_json())
        return
    say(result)
    say(f"next: embedkd precompute --teacher {_as_path(result.out)} --data {settings.data.shards}")


def head_command(
    store: Annotated[str | None, typer.Argument(metavar="STORE", help="The embedding store.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Which teacher, where the store has several.")] = None,
    output: Annotated[str | None, typer.Option(help="Rows that the head reads: cls, image, pooled, ...")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Fitted to labels, or made of stored class texts.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the head; its kind by default.")] = None,
    class_set: Annotated[str | None, typer.Option(help="Class texts of a zero-shot head.")] = None,
    l2: Annotated[float | None, typer.Option(help="Penalty on weights; chosen on held-out rows by default.")] = None,
    folds: Annotated[int | None, typer.Option(help="Training rows get logits of a head without their fold.")] = None,
    seed: Annotated[int | None, typer.Option(help="Divides the training rows into folds.")] = None,
    device: Annotated[str | None, typer.Option(help="Where heads are fitted: auto, cpu, cuda or cuda:N.")] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Put a head on stored rows: logits at any temperature, without a pass of the teacher."""
    from embedkd.config import load_config
    from embedkd.heads import make_head

    values: dict[str, Any] = {
        "head.store": store,
        "head.teacher": teacher,
        "head.output": output,
        "head.kind": None if kind is None else kind.value,
        "head.name": name,
        "head.class_set": class_set,
        "head.l2": l2,
        "head.folds": folds,
        "head.seed": seed,
        "head.device": device,
    }
    settings = load_config(config, values=values, sets=sets or [])
    result = make_head(settings.head, settings.average, watcher())
    if as_json:
        print_json(result.to_json())
        return
    say(result)
    say(f"next: embedkd train --targets {result.store} --recipe embedkd-head")


def _as_path(folder: str) -> str:
    """A folder so that no teacher's name is meant."""
    return folder if folder.startswith(("/", ".", "~")) else f"./{folder}"
