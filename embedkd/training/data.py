"""What there is to learn from: the splits of a store or of plain shards, the classes, and the teacher's part."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import TrainingError
from embedkd.join import Samples, shard_samples, stored_samples
from embedkd.records import blake2b_hex, canonical_json
from embedkd.sources.shards import index_shards, list_data, root_of
from embedkd.store import open_store
from embedkd.store.schema import MAX_CLASSES
from embedkd.training.targets import TermTargets, default_output, find_targets, identity_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.config import Config
    from embedkd.records import Split
    from embedkd.store import TeacherView
    from embedkd.training.terms import Term

_HELD_OUT: "tuple[Split, Split]" = ("val", "test")


@dataclass(frozen=True)
class TrainingData:
    """Everything that a run reads, found and checked but not yet opened.

    Attributes:
        train: Samples to learn from, joined with the rows that the losses read.
        val: Samples that choose the best student; None where the data has no such split.
        test: Samples that the best student is reported on; likewise.
        num_classes: Width of the student's logits.
        class_names: In label order, where the data names them.
        targets: What each loss that has a teacher compares with, by the loss's name.
        teacher_name: Of the teacher whose targets are used.
        identity: Part of the data to a digest of it, wherever it lies: what a resumed run must share.
    """

    train: Samples
    val: Samples | None
    test: Samples | None
    num_classes: int
    class_names: tuple[str, ...] | None
    targets: dict[str, TermTargets]
    teacher_name: str | None
    identity: dict[str, str]


def open_data(config: "Config", terms: "Sequence[Term]") -> TrainingData:
    """Find what a config names.

    Raises:
        TrainingError: It names nothing, or there is no training split or no class.
        EmbedKDError: Shards or store cannot be used.
    """
    if config.train.targets is not None:
        return _open_store(config, terms, config.train.targets)
    if config.data.shards is not None:
        return _open_shards(config.data.shards)
    raise TrainingError("expected something to learn from: name a store with --targets, or shards with --data")


def _open_store(config: "Config", terms: "Sequence[Term]", url: str) -> TrainingData:
    view = open_store(url).teacher(config.train.teacher)
    targets = find_targets(view, terms, config)
    rows = sorted({found.output for found in targets.values() if found.output is not None})
    if targets and view.spec.random_weights and not config.train.allow_random_teacher:
        raise TrainingError(
            f"the weights of {view.spec.name} in {url} are random, so its targets mean nothing\n"
            "as a control, allow that with --allow-random-teacher"
        )
    root = None if config.data.shards is None else root_of(config.data.shards)
    partial = config.train.allow_partial
    labelled = any("labels" in term.entry.needs for term in terms)
    train = stored_samples(view, "train", rows, data=root, labels_needed=labelled, allow_partial=partial)
    val, test = (stored_samples(view, split, data=root, allow_partial=partial) for split in _HELD_OUT)
    names = view.store.class_names
    identity = _identity(train, val)
    if targets:
        identity |= {"teacher": view.spec.fingerprint, "outputs": " ".join(rows)} | identity_of(targets)
    return TrainingData(
        train=_require_train(train, url),
        val=_or_none(val),
        test=_or_none(test),
        num_classes=len(names) if names is not None else _count_classes(view, default_output(view)),
        class_names=names,
        targets=targets,
        teacher_name=view.spec.name if targets else None,
        identity=identity,
    )


def _open_shards(url: str) -> TrainingData:
    listing = list_data(url)
    if listing.classes is None:
        raise TrainingError(f"{url} names no classes; pack it with embedkd pack, or train on a store with --targets")
    shards = index_shards(listing)
    train, val, test = (
        shard_samples([shard for shard in shards if shard.split == split], listing.root, labels_needed=True)
        for split in ("train", *_HELD_OUT)
    )
    return TrainingData(
        train=_require_train(train, url),
        val=_or_none(val),
        test=_or_none(test),
        num_classes=len(listing.classes),
        class_names=listing.classes,
        targets={},
        teacher_name=None,
        identity=_identity(train, val),
    )


def _identity(train: Samples, val: Samples) -> dict[str, str]:
    return {"training split": _digest(train), "validation split": _digest(val)}


def _digest(samples: Samples) -> str:
    """Over the bytes of the shards and how many of their samples take part."""
    facts = [[slot.shard.blake2b, slot.start, count] for slot, count in zip(samples.slots, samples.counts, strict=True)]
    return blake2b_hex(canonical_json(facts))


def _require_train(samples: Samples, url: str) -> Samples:
    if not samples.rows:
        raise TrainingError(f"{url} has no training samples; expected shards of the split train")
    return samples


def _or_none(samples: Samples) -> Samples | None:
    return samples if samples.rows else None


def _count_classes(view: "TeacherView", output: str) -> int:
    """One more than the greatest label of the store, where the data names no classes."""
    classes = 1 + int(view.counts(output).max_label.max(initial=-1))
    if not classes:
        raise TrainingError(f"{view.store.storage.url} has no labels; a student needs classes")
    if classes > MAX_CLASSES:  # a commit may say anything, and the student's last layer has a row a class
        raise TrainingError(
            f"{view.store.storage.url} has labels up to {classes - 1}; expected them below {MAX_CLASSES}"
        )
    return classes
