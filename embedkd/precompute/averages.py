"""The default class means that end a pass, and others on demand."""

from typing import TYPE_CHECKING

import numpy as np

from embedkd.store import ClassSet, TeacherView, average, default_name, set_names, write_class_set
from embedkd.store.averaging import list_classes

if TYPE_CHECKING:
    from embedkd.config import AverageConfig
    from embedkd.progress import Progress


def add_class_set(
    view: TeacherView,
    output: str,
    config: "AverageConfig",
    watch: "Progress",
    name: str | None = None,
    *,
    allow_empty: bool = True,
) -> ClassSet | None:
    """Average stored rows into a class set, or say why there is nothing to average.

    Args:
        view: The teacher's part of a store.
        output: The output.
        config: How many samples a class, which, and how they are averaged.
        watch: Is told which classes have no row.
        name: Of the set; by default from the numbers.
        allow_empty: Whether classes without a row are let through, as NaN.

    Raises:
        HoleError: A training slot has no commit.
        StoreError: A set of that name holds something else, or a class is empty and must not be.
    """
    if not _labelled(view, output):
        watch.line(f"no class means of {output}: no training sample has a label and an embedding")
        return None
    made = average(
        view,
        output,
        samples_per_class=config.per_class,
        seed=config.seed,
        method=config.method,
        trim=config.trim,
        name=name,
        allow_empty=allow_empty,
    )
    write_class_set(view, output, made)
    empty = np.flatnonzero(made.count == 0).tolist()
    if empty:
        watch.line(
            f"class set {made.name} of {output}: {len(empty)} of {len(made.count)} classes have no training row and "
            f"are NaN: {list_classes(view.store, empty)}"
        )
    return made


def _labelled(view: TeacherView, output: str) -> int:
    """Number of samples in the training split that can have both a label and an embedding."""
    counts = view.counts(output)
    train = [slot.index for slot in view.store.slots if slot.shard.split == "train"]
    return int(np.minimum(counts.labelled, counts.ok)[train].sum())


def class_sets_done(view: TeacherView, outputs: tuple[str, ...], config: "AverageConfig") -> bool:
    """Whether every output has the default class set, or there is nothing to average."""
    generation = view.store.manifest.generation
    name = default_name(config.per_class, config.seed, generation, method=config.method, trim=config.trim)
    return all(name in set_names(view, output) or not _labelled(view, output) for output in outputs)
