"""Fitting a linear head: the strength of its penalty, one map for all training rows, and one without each fold."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedkd.errors import StoreError
from embedkd.heads.logistic import LinearMap, Rows, cross_entropy, fit
from embedkd.heads.rows import LabelledRows, count_classes, read_rows
from embedkd.join.held_out import held_out
from embedkd.store.averaging import commits_digest
from embedkd.store.heads import Head, folds_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedkd.config.tuning import HeadConfig
    from embedkd.progress import Progress
    from embedkd.store import TeacherView

    Fit = Callable[[Rows, float], LinearMap]

L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Evidence:
    """What a head is fitted to, and what its penalty is chosen on.

    Attributes:
        train: Rows of the training split, without those held out.
        val: Rows that choose the penalty; empty where it was given.
        chosen_on: What these are, for people; None where the penalty was given.
    """

    train: LabelledRows
    val: Rows
    chosen_on: str | None

    @classmethod
    def of(cls, view: "TeacherView", output: str, config: "HeadConfig") -> "Evidence":
        """Read it. Without a validation split, a tenth of the training rows is in no fit at all.

        Raises:
            HoleError: A slot has no commit.
            StoreError: No training row has a label.
        """
        classes = count_classes(view, output)
        train = read_rows(view, output, "train", classes, max_rows=config.max_rows, seed=config.seed)
        if not len(train.keys):
            raise StoreError(f"{view.store.storage.url}: no training sample has a label and a row of {output}")
        if config.l2 is not None:
            return cls(train, train.where(train.keys != train.keys).rows, None)
        val = read_rows(view, output, "val", classes, max_rows=config.max_rows, seed=config.seed)
        if len(val.keys):
            return cls(train, val.rows, "validation split")
        mask = held_out(train.keys, train.rows.labels.numpy(), share=HELD_OUT_SHARE, seed=config.seed)
        if not mask.any():
            raise StoreError("expected 2 training samples of a class to hold one out; name the penalty with --l2")
        return cls(train.where(~mask), train.where(mask).rows, "held-out training rows")


@dataclass(frozen=True)
class FittedHead:
    """A head and how its penalty was chosen.

    Attributes:
        head: The head.
        chosen_on: See `Evidence`.
        losses: Strength to mean cross-entropy on those rows; empty where it was given.
    """

    head: Head
    chosen_on: str | None
    losses: dict[float, float]


def fit_head(
    view: "TeacherView", output: str, name: str, config: "HeadConfig", device: torch.device, watch: "Progress"
) -> FittedHead:
    """Fit a linear head to the labels of the training split.

    Every fit begins at zero: one that began at the map of all rows would carry what that map knows of the fold.

    Raises:
        HoleError: A slot has no commit.
        StoreError: There are too few labels or classes.
    """
    evidence = Evidence.of(view, output, config)
    train = evidence.train
    if train.left_out:
        watch.line(
            f"{len(train.keys)} of {len(train.keys) + train.left_out} labelled training rows are fitted, chosen by "
            "hash; head.max_rows bounds what is held in memory"
        )
    grid = L2_GRID if config.l2 is None else (config.l2,)
    watch.begin("fit head", len(grid) + config.folds, "fits")

    def one(rows: Rows, l2: float) -> LinearMap:
        found = fit(rows, l2=l2, iterations=config.iterations, device=device)
        watch.advance(1)
        return found

    try:
        whole, l2, losses = _choose(evidence, grid, one)
        folds = folds_of(train.keys, config.folds, config.seed)
        maps = [whole, *(one(train.where(folds != fold).rows, l2) for fold in range(config.folds))]
    finally:
        watch.end()
    slots = [slot for slot in view.store.slots if slot.shard.split == "train"]
    head = Head(
        name=name,
        kind="linear",
        output=output,
        weight=torch.stack([one.weight for one in maps]).float().cpu().numpy(),
        bias=torch.stack([one.bias for one in maps]).float().cpu().numpy(),
        normalise=False,
        folds=config.folds,
        seed=config.seed,
        l2=l2,
        made_from=commits_digest(view, slots, output),
    )
    return FittedHead(head, evidence.chosen_on, losses)


def _choose(evidence: Evidence, grid: tuple[float, ...], one: "Fit") -> tuple[LinearMap, float, dict[float, float]]:
    """The map with the lowest cross-entropy on the rows that choose, its strength, and all that were tried."""
    maps = {l2: one(evidence.train.rows, l2) for l2 in grid}
    if evidence.chosen_on is None:
        return maps[grid[0]], grid[0], {}
    losses = {l2: cross_entropy(found, evidence.val) for l2, found in maps.items()}
    best = min(grid, key=lambda l2: losses[l2])
    return maps[best], best, losses
