"""``embedkd train``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedkd.cli.options import AsJson, ConfigFile, Data, Sets
from embedkd.cli.output import print_json, say
from embedkd.cli.progress import watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedkd.config import Config
    from embedkd.training import TrainResult

Targets = Annotated[
    list[str] | None,
    typer.Option(metavar="STORE[#TEACHER]", help="The embedding store; may be repeated for several teachers."),
]
Teacher = Annotated[str | None, typer.Option(help="Which teacher, where the store has several.")]
ClassSet = Annotated[str | None, typer.Option(help="Which class means, other than the default.")]
Student = Annotated[str | None, typer.Option(help="vit-tiny, vit-base, timm:resnet18, ...; see embedkd students.")]
ImagePx = Annotated[int | None, typer.Option(help="Height and width of the student's images.")]
MaskRatio = Annotated[
    float | None, typer.Option(help="Share of an image's patches that a transformer does not see while training.")
]
Out = Annotated[str | None, typer.Option(help="The run folder.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training split.")]
BatchSize = Annotated[int | None, typer.Option(help="Samples a step, over all ranks.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate at the end of the warm-up.")]
Seed = Annotated[int | None, typer.Option(help="Of initialisation, order and augmentation.")]
Losses = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=WEIGHT", help="A loss of the sum; naming one replaces the default recipe."),
]
RecipeName = Annotated[str | None, typer.Option(help="Losses and weights by a name; see embedkd losses.")]
Preset = Annotated[str | None, typer.Option(metavar="NAME", help="none, flip (the default), crop, colour or strong.")]
Logs = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Who takes the metrics: tensorboard (default), wandb, mlflow; repeatable."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan, take three steps to see their cost, and write nothing.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
AllowPartial = Annotated[bool | None, typer.Option("--allow-partial", help="Leave out samples that have no target.")]
AllowViewMismatch = Annotated[
    bool | None,
    typer.Option("--allow-view-mismatch", help="Per-sample losses with augmentation that the teacher did not see."),
]
AllowRandomTeacher = Annotated[
    bool | None, typer.Option("--allow-random-teacher", help="Learn from random weights, as a control.")
]
OnlineTeacher = Annotated[
    bool | None,
    typer.Option("--online-teacher", help="Run the teacher in every step, in place of its stored rows, to compare."),
]


def train_command(
    targets: Targets = None,
    teacher: Teacher = None,
    class_set: ClassSet = None,
    student: Student = None,
    image_px: ImagePx = None,
    mask_ratio: MaskRatio = None,
    data: Data = None,
    out: Out = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    seed: Seed = None,
    loss: Losses = None,
    recipe: RecipeName = None,
    augment: Preset = None,
    log: Logs = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    allow_partial: AllowPartial = None,
    allow_view_mismatch: AllowViewMismatch = None,
    allow_random_teacher: AllowRandomTeacher = None,
    online_teacher: OnlineTeacher = None,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Train a student on shards joined with stored targets; no teacher is loaded."""
    from embedkd.config import load_config

    values: dict[str, Any] = {
        "train.targets": targets or None,
        "train.teacher": teacher,
        "train.class_set": class_set,
        "student.name": student,
        "student.image_px": image_px,
        "student.mask_ratio": mask_ratio,
        "data.shards": data,
        "train.out": out,
        "train.epochs": epochs,
        "train.global_batch_size": batch_size,
        "optimiser.lr": lr,
        "train.seed": seed,
        "losses": _weights(loss),
        "recipe": recipe,
        "augment.preset": augment,
        "train.logs": log or None,
        "train.allow_partial": allow_partial,
        "train.allow_view_mismatch": allow_view_mismatch,
        "train.allow_random_teacher": allow_random_teacher,
        "train.online_teacher": online_teacher,
    }
    settings = load_config(config, values=values, sets=sets or [])
    if dry_run:
        _show_plan(settings, resume=resume, as_json=as_json)
    else:
        _show_result(settings, resume=resume, as_json=as_json)


def _show_result(settings: "Config", *, resume: bool, as_json: bool) -> None:
    result = _trainer(settings)(settings, resume=resume, progress=watcher())

    from embedkd.training.distributed import Ranks  # torch is there by now

    if not Ranks.from_environment().first:
        return
    if as_json:
        print_json(result.to_json())
        return
    say(result)
    say(f"next: embedkd evaluate {settings.train.out}; embedkd report {settings.train.out}")


def _show_plan(settings: "Config", *, resume: bool, as_json: bool) -> None:
    from embedkd.cli.plan import plan_lines
    from embedkd.training.preview import preview

    plan = preview(settings, resume=resume, progress=watcher())
    if as_json:
        print_json(plan.to_json())
        return
    for line in plan_lines(plan):
        say(line)


def _trainer(settings: "Config") -> "Callable[..., TrainResult]":
    """With or without a teacher: only the one that has one may import it."""
    if settings.train.online_teacher:
        from embedkd.online import train_online

        return train_online
    from embedkd.training import train

    return train


def _weights(texts: list[str] | None) -> dict[str, float] | None:
    if not texts:
        return None
    weights = {}
    for text in texts:
        name, separator, weight = text.partition("=")
        try:
            weights[name] = float(weight) if separator else 1.0
        except ValueError as error:
            raise typer.BadParameter(f"expected NAME=WEIGHT, got {text!r}", param_hint="--loss") from error
    return weights
