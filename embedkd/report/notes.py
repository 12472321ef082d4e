"""What a reader must know before comparing runs: every caveat that the run folders themselves tell of."""

from typing import TYPE_CHECKING

from embedkd.report import units
from embedkd.report.markup import Markup, render, tag

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedkd.report.runs import Run

_MOST_NOTES = 20  # strangers may write any number
_BUDGET = (("train", "epochs"), ("train", "global_batch_size"), ("student", "name"), ("student", "image_px"))


def notes(runs: "Sequence[Run]") -> list[Markup]:
    """One sentence or two each; those about all runs first."""
    return [*_shared(runs), *(render(tag("strong", run.name), ": ", text) for run in runs for text in _own(run))]


def _shared(runs: "Sequence[Run]") -> "Iterator[Markup]":
    differing = [f"{section}.{key}" for section, key in _BUDGET if len({run.setting(section, key) for run in runs}) > 1]
    if differing:
        keys = [render(", " if i else "", tag("code", key)) for i, key in enumerate(differing)]
        yield render(
            "The runs differ in more than their losses (", *keys, "), so their numbers answer other questions."
        )
    if len({run.test_rows for run in runs if run.test_rows}) > 1:
        yield render("The test splits differ in size, so the runs were not tested on the same images.")
    if len({run.fact("device") for run in runs if run.finished}) > 1:
        yield render("The runs used different devices; their times and peaks of memory do not compare.")


def _own(run: "Run") -> "Iterator[str]":
    if not run.finished:
        yield f"not finished ({run.progress}); its numbers are of the best student so far."
    mismatch = run.fact("view_mismatch")
    if mismatch:
        yield (
            f"{', '.join(mismatch)} compared a cropped or mirrored view with what the teacher said of the plain image "
            "(allowed by train.allow_view_mismatch)."
        )
    if run.fact("online_teacher"):
        yield "the teacher ran in every step (train.online_teacher), so time and memory include it."
    if run.setting("train", "allow_random_teacher"):
        yield "was allowed to learn from a teacher with random weights, as a control."
    for reason, rows in (run.fact("left_out") or {}).items():
        yield f"{units.count(rows)} training samples were left out: {reason}."
    if run.finished and run.val_top1 is None:
        yield "there was no validation split, so the last epoch's student was kept."
    if run.outdated:
        yield "its evaluation is of an earlier student and is not shown; evaluate the run again."
    yield from _of_evaluation(run)


def _of_evaluation(run: "Run") -> "Iterator[str]":
    evaluation = run.evaluation
    if evaluation is None:
        return
    if evaluation.split != "test":
        yield f"was evaluated on the {evaluation.split} split, which the table does not show."
    stores = dict.fromkeys(entry.partition("#")[0] for entry in run.targets)
    if evaluation.data not in {" and ".join(stores), run.setting("data", "shards")}:
        yield f"was evaluated on {evaluation.data}, not on the data it was trained beside."
    yield from evaluation.notes[:_MOST_NOTES]
    for reason, rows in evaluation.left_out.items():
        yield f"{units.count(rows)} test samples were left out: {reason}."
