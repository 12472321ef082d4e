"""What there is to learn from: labelled shards, and a validation part in any case."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import TrainingError
from embedkd.join import Samples, shard_samples
from embedkd.join.held_out import split_held_out
from embedkd.records import SPLITS, blake2b_hex, canonical_json
from embedkd.sources.shards import index_shards, list_data

if TYPE_CHECKING:
    from embedkd.config.tuning import FinetuneConfig


@dataclass(frozen=True)
class TuningData:
    """Everything that a run reads, found and checked but not yet opened.

    Attributes:
        train: Samples to learn from.
        val: Samples that choose the best epoch.
        test: Samples that it is reported on; None where the data has no such split.
        class_names: In label order.
        held_out: Whether `val` was held out from the training split.
        identity: Part of the data to a digest of it, wherever it lies: what a resumed run must share.
    """

    train: Samples
    val: Samples
    test: Samples | None
    class_names: tuple[str, ...]
    held_out: bool
    identity: dict[str, str]


def open_data(shards: str | None, config: "FinetuneConfig") -> TuningData:
    """Find the data set.

    Raises:
        TrainingError: None is named, or it names no classes or has no training split.
        SourceError: Its shards cannot be used.
        JoinError: Too few samples to hold any out.
    """
    if shards is None:
        raise TrainingError("expected labelled shards to learn from: name them with --data, for example data:clipart")
    listing = list_data(shards)
    if listing.classes is None:
        raise TrainingError(f"{shards} names no classes; pack it with embedkd pack, which writes an index")
    indexed = index_shards(listing)
    train, val, test = (
        shard_samples([shard for shard in indexed if shard.split == split], listing.root, labels_needed=True)
        for split in SPLITS
    )
    if not train.rows:
        raise TrainingError(f"{shards} has no training samples; expected shards of the split train")
    no_val = not val.rows
    if no_val:
        train, val = split_held_out(train, share=config.held_out, seed=config.seed)
    identity = {"training split": _digest(train), "validation split": _digest(val)}
    return TuningData(train, val, test if test.rows else None, listing.classes, no_val, identity)


def _digest(samples: Samples) -> str:
    """Over the bytes of the shards and how many of their samples take part."""
    facts = [[slot.shard.blake2b, slot.start, count] for slot, count in zip(samples.slots, samples.counts, strict=True)]
    return blake2b_hex(canonical_json(facts))
