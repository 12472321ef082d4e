"""The splits of a run's data: as the shards have them, or with a part of the training split held out."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from embedkd.errors import TrainingError
from embedkd.join import Samples, Wanted, joined_samples, shard_samples, split_held_out
from embedkd.join.samples import UNLABELLED
from embedkd.sources.shards import root_of
from embedkd.training.stores import RunTeacher, stores_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embedkd.config import Config
    from embedkd.records import Shard, Split

Source = tuple[RunTeacher, str]
_HELD_OUT: "tuple[Split, Split]" = ("val", "test")


@dataclass
class Splits:
    """The splits of a run's data.

    Attributes:
        train: What is learned from.
        val: What chooses the best student; held out of the training split where the data has none.
        test: What the best student is reported on.
        notes: What a reader of the run's output should know, a line each.
        held_out: Whether val was held out of the training split.
    """

    train: Samples
    val: Samples
    test: Samples
    notes: list[str] = field(default_factory=list)
    held_out: bool = False

    def hold_out(self, config: "Config", where: str, *, labelled: bool) -> "Splits":
        """The same, with a part of the training split in place of a validation split that is not there.

        Raises:
            TrainingError: There is no training split.
        """
        if not self.train.rows:
            raise TrainingError(f"{where} has no training samples; expected shards of the split train")
        share = config.train.val_fraction
        if self.val.rows or not share or not labelled:
            return self
        train, val = split_held_out(self.train, share=share, seed=config.train.seed)
        val = replace(val, views=())  # a student is judged by whole images
        note = (
            f"there is no validation split: {val.rows} of {self.train.rows} training samples are held out to choose "
            "the best student (train.val_fraction)"
        )
        return Splits(train, val, self.test, [note], held_out=True)


def stored_splits(
    config: "Config",
    teachers: "Sequence[RunTeacher]",
    sources: "Mapping[str, Source]",
    *,
    labels_needed: bool,
    everywhere: bool = False,
) -> Splits:
    """The splits of the shards that the stores were made from.

    Args:
        config: The config.
        teachers: All of the run.
        sources: Name of each target to its teacher and output.
        labels_needed: Whether training samples need a label.
        everywhere: Whether the held-out splits are joined too.
    """
    _check_views(sources.values())
    root = None if config.data.shards is None else root_of(config.data.shards)
    wanted = [
        Wanted(t.view, {name: output for name, (one, output) in sources.items() if one is t}, t.views) for t in teachers
    ]
    wanted = [one for one in wanted if one.outputs] or wanted
    partial = config.train.allow_partial
    train = joined_samples(wanted, "train", data=root, labels_needed=labels_needed, allow_partial=partial)
    where, view = stores_of(config.train.targets), teachers[0].view
    labelled = any((view.counts(output).labelled > 0).any() for output in view.outputs[:1])
    if not labelled and not everywhere:
        nothing = replace(train, slots=(), counts=(), targets=(), views=())
        note = "there are no labels to choose a student by, or to test it on"
        return Splits(train, nothing, nothing, [note]).hold_out(config, where, labelled=False)
    val, test = (
        joined_samples(
            wanted if everywhere else [_widest(teachers, split)],
            split,
            data=root,
            labels_needed=labelled,
            allow_partial=partial,
            allow_unlabelled=True,  # they could judge nothing
        )
        for split in _HELD_OUT
    )
    splits = Splits(train, val, test).hold_out(config, where, labelled=labelled)
    for split, samples in zip(_HELD_OUT, (val, test), strict=True):
        if unlabelled := samples.left_out.get(UNLABELLED):
            splits.notes.append(f"{unlabelled} {split} samples are left out: {UNLABELLED}")
    return splits


def _check_views(sources: "Iterable[Source]") -> None:
    """Refuse outputs that the stored views do not have."""
    for teacher, output in sources:
        if any(output not in view.outputs for view in teacher.views):
            raise TrainingError(
                f"the stored views of {teacher.view.spec.name} have no {output}; precompute them with --outputs "
                f"{output}, or learn from the plain images with --set train.views=0"
            )


def _widest(teachers: "Sequence[RunTeacher]", split: "Split") -> Wanted:
    """The teacher whose store has most of a split that is not joined with anything; not the one named first."""

    def held(teacher: RunTeacher) -> tuple[int, list[str]]:
        shards = [shard for shard in teacher.view.store.shards if shard.split == split]
        return -sum(shard.rows for shard in shards), [shard.blake2b for shard in shards]

    return Wanted(min(teachers, key=held).view)


def plain_splits(config: "Config", where: str, shards: "Sequence[Shard]", root: str) -> Splits:
    """The splits of shards that are joined with nothing.

    Args:
        config: The config.
        where: The shards, as they were named.
        shards: As their index or a scan describes them.
        root: Where they lie.

    Raises:
        TrainingError: There is no training split.
    """
    train, val, test = (
        shard_samples([shard for shard in shards if shard.split == split], root, labels_needed=True)
        for split in ("train", *_HELD_OUT)
    )
    return Splits(train, val, test).hold_out(config, where, labelled=True)
