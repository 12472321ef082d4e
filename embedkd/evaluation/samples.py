"""Which samples a student is evaluated on: those it was trained beside, or any other shards of its classes."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from embedkd.errors import JoinError, SourceError, StorageError, StoreError, TrainingError
from embedkd.join import Samples, shard_samples
from embedkd.records import SPLITS, Split
from embedkd.sources.shards import index_shards, list_data
from embedkd.training.data import open_data
from embedkd.training.terms import build_terms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedkd.config import Config
    from embedkd.training.data import TrainingData

Splits = dict[Split, Samples]
_TRAINING: Final = "training split"


def own_data(config: "Config") -> "TrainingData":
    """What a run was trained on, in whole images.

    Raises:
        TrainingError: Its store or its shards cannot be opened any more.
    """
    try:
        # With its losses, so that the same samples take part; in whole images, whatever the student learned from.
        whole = replace(config, train=replace(config.train, views=0))
        return open_data(whole, build_terms(config.losses, config.loss_options))
    except (StoreError, SourceError, StorageError) as error:
        raise TrainingError(f"{error}\nthe run was trained on it; name the shards to evaluate with --data") from error


def own_splits(config: "Config") -> Splits:
    """The splits of what a run was trained on that have samples.

    Raises:
        TrainingError: Its store or its shards cannot be opened any more.
    """
    return splits_of(own_data(config))


def splits_of(data: "TrainingData") -> Splits:
    """Those that have samples."""
    found = {"train": data.train, "val": data.val, "test": data.test}
    return {split: samples for split in SPLITS if (samples := found[split]) is not None}


def grown_since(result: "Mapping[str, Any] | None", data: "TrainingData") -> list[str]:
    """What to know where the training split is another one than when the run ended; nothing where it is the same.

    Args:
        result: What the run wrote at its end; None before.
        data: What it would be trained on now.
    """
    then = (result or {}).get("data", {}).get(_TRAINING)
    if then in {None, data.identity[_TRAINING]}:
        return []
    return ["the training split has other samples than when the run ended: some that are held out now may be known"]


def shard_splits(data: str, class_names: "Sequence[str] | None") -> Splits:
    """The splits of any shards that have samples.

    Args:
        data: Folder, URL, glob, brace pattern or symbolic name.
        class_names: Of the student, in the order of its logits, where they are known.

    Raises:
        ShardError: There are no such shards.
        JoinError: Their classes are not the student's.
    """
    listing = list_data(data)
    if listing.classes is not None and class_names is not None:
        _check_classes(data, listing.classes, class_names)
    shards = index_shards(listing)
    found = {split: shard_samples([s for s in shards if s.split == split], listing.root) for split in SPLITS}
    return {split: samples for split, samples in found.items() if samples.rows}


def choose(splits: Splits, split: Split, where: str) -> Samples:
    """The samples of one split.

    Raises:
        TrainingError: There are none.
    """
    if split not in splits:
        raise TrainingError(
            f"expected samples of the split {split}, {where} has {' and '.join(splits) or 'no samples at all'}; "
            "name other shards with --data"
        )
    return splits[split]


def _check_classes(data: str, theirs: "Sequence[str]", ours: "Sequence[str]") -> None:
    if len(theirs) != len(ours):
        raise JoinError(f"{data} has {len(theirs)} classes, the student knows {len(ours)}; evaluate it on its own")
    for label, (their, our) in enumerate(zip(theirs, ours, strict=True)):
        if their != our:
            raise JoinError(f"label {label} is {their!r} in {data}, the student learnt it as {our!r}")
