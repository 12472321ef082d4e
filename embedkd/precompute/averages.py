"""The default class means that end a pass, and others on demand."""

from typing import TYPE_CHECKING

import numpy as np

from embedkd.store import ClassSet, TeacherView, average, default_name, set_names, write_class_set

if TYPE_CHECKING:
    from embedkd.config import AverageConfig
    from embedkd.progress import Progress


def add_class_set(
    view: TeacherView, output: str, config: "AverageConfig", watch: "Progress", name: str | None = None
) -> ClassSet | None:
    """Average stored rows into a class set, or say why there is nothing to average.

    Raises:
        HoleError: A training slot has no commit.
        StoreError: A set of that name holds something else.
    """
    if not _labelled(view, output):
        watch.line(f"no class means of {output}: no training sample has a label and an embedding")
        return None
    made = average(view, output, samples_per_class=config.per_class, seed=config.seed, name=name)
    write_class_set(view, output, made)
    empty = [_class_label(view, c) for c in range(len(made.count)) if made.count[c] == 0]
    if empty:
        watch.line(
            f"class set {made.name} of {output}: no training sample of {', '.join(empty[:5])} ({len(empty)} empty)"
        )
    return made


def _labelled(view: TeacherView, output: str) -> int:
    """Number of samples in the training split that can have both a label and an embedding."""
    counts = view.counts(output)
    train = [slot.index for slot in view.store.slots if slot.shard.split == "train"]
    return int(np.minimum(counts.labelled, counts.ok)[train].sum())


def class_sets_done(view: TeacherView, outputs: tuple[str, ...], config: "AverageConfig") -> bool:
    """Whether every output has the default class set, or there is nothing to average."""
    name = default_name(config.per_class, config.seed, view.store.manifest.generation)
    return all(name in set_names(view, output) or not _labelled(view, output) for output in outputs)


def _class_label(view: TeacherView, number: int) -> str:
    names = view.store.class_names
    return names[number] if names is not None else str(number)
