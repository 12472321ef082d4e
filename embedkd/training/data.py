"""What there is to learn from: the splits of a store or of plain shards, the classes, and the teacher's part."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from embedkd.errors import TrainingError
from embedkd.join import Samples, check_coverage
from embedkd.losses import similarity_kl
from embedkd.records import LOGITS, blake2b_hex, canonical_json
from embedkd.sources.shards import index_shards, list_data
from embedkd.store.schema import MAX_CLASSES
from embedkd.training.fitting import fit_targets
from embedkd.training.splits import Splits, plain_splits, stored_splits
from embedkd.training.stores import RunTeacher, open_teachers, shares_of, speakers
from embedkd.training.targets import (
    TermTargets,
    default_output,
    find_targets,
    identity_of,
    sources_of,
    target_name,
    teachers_of,
)
from embedkd.training.terms import Term, build_terms, spread_terms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from embedkd.config import Config
    from embedkd.records import Split
    from embedkd.store import TeacherView
    from embedkd.training.splits import Source


@dataclass(frozen=True)
class TrainingData:
    """Everything that a run reads, found and checked but not yet opened.

    Attributes:
        train: Samples to learn from, joined with the rows that the losses read.
        val: Samples that choose the best student; None where the data has no such split and none is held out.
        test: Samples that the best student is reported on; None where the data has no such split.
        num_classes: Width of the student's logits.
        class_names: In label order, where the data names them.
        targets: What each loss that has a teacher compares with, by the loss's name.
        teacher_name: Of the teachers whose targets are used.
        identity: Part of the data to a digest of it, wherever it lies: what a resumed run must share.
        terms: The losses, one for each teacher where there are several.
        teachers: All teachers of the run.
        notes: What a reader of the run's output should know, a line each.
    """

    train: Samples
    val: Samples | None
    test: Samples | None
    num_classes: int
    class_names: tuple[str, ...] | None
    targets: dict[str, TermTargets]
    teacher_name: str | None
    identity: dict[str, str]
    terms: tuple[Term, ...] = ()
    teachers: tuple[RunTeacher, ...] = ()
    notes: tuple[str, ...] = ()


def open_data(config: "Config", terms: "Sequence[Term]") -> TrainingData:
    """Find what a config names.

    Args:
        config: The config.
        terms: Its losses, as `build_terms` gives them.

    Raises:
        TrainingError: It names nothing, or there is no training split or no class.
        EmbedKDError: Shards or store cannot be used.
    """
    if config.train.targets:
        return _open_stores(config, terms)
    if config.data.shards is not None:
        return _open_shards(config, terms, config.data.shards)
    raise TrainingError("expected something to learn from: name a store with --targets, or shards with --data")


def rows_of_split(
    config: "Config", split: "Split", outputs: "Callable[[TeacherView], Sequence[str]]"
) -> "tuple[Samples, dict[str, Source]]":
    """The samples of a split that a run was trained beside, joined with what its teachers say of the plain images.

    Args:
        config: Of the run.
        split: Which split; "val" is what was held out where the data has no such split.
        outputs: Which outputs of a teacher are wanted.

    Returns:
        The samples, and the name of each target in their batches to its teacher and output.

    Raises:
        EmbedKDError: A store cannot be used any more, or does not cover the split.
    """
    teachers = open_teachers(config.train.targets, config.train.teacher)
    several = len(teachers) > 1
    sources = {target_name(t, out, several=several): (t, out) for t in teachers for out in outputs(t.view)}
    terms = build_terms(config.losses, config.loss_options)
    splits = stored_splits(config, teachers, sources, labels_needed=_needs_labels(config, terms), everywhere=True)
    return {"train": splits.train, "val": splits.val, "test": splits.test}[split], sources


def _open_stores(config: "Config", terms: "Sequence[Term]") -> TrainingData:
    settings = config.train
    teachers = open_teachers(
        settings.targets,
        settings.teacher,
        0 if settings.online_teacher else settings.views,
        needs_logits=partial(_needs_logits, terms, settings.teacher_weights),
    )
    shares = shares_of(teachers, settings.teacher_weights)
    terms = spread_terms(terms, shares, config.loss_options, partial(speakers, teachers))
    targets = find_targets(teachers, terms, config, shares)
    used = _used(teachers, terms, shares)
    _check_trained(used, config)
    sources = sources_of(teachers, targets)
    if settings.keep_unlabelled and any("labels" in term.entry.needs for term in terms):
        _check_some_labels(teachers, terms)
    splits = stored_splits(config, teachers, sources, labels_needed=_needs_labels(config, terms))
    check_coverage([splits.train, splits.val, splits.test])
    targets = fit_targets(targets, terms, splits.train)
    if splits.held_out and (any(one.classes is not None for one in targets.values()) or any(map(_has_learned, used))):
        splits.notes.append(
            "class sets and heads are as the store has them: they may have been made of samples that are held out now"
        )
    splits.notes += _advice(teachers, terms, shares)
    names = next((t.view.store.class_names for t in teachers if t.view.store.class_names is not None), None)
    lead = teachers[0].view
    return TrainingData(
        train=splits.train,
        val=_or_none(splits.val),
        test=_or_none(splits.test),
        num_classes=len(names) if names is not None else _count_classes(lead, default_output(lead)),
        class_names=names,
        targets=targets,
        teacher_name=", ".join(teacher.view.spec.name for teacher in used) or None,
        identity=_identity(splits) | _teacher_identity(used, sources) | identity_of(targets),
        terms=terms,
        teachers=teachers,
        notes=tuple(splits.notes),
    )


def _advice(
    teachers: "Sequence[RunTeacher]", terms: "Sequence[Term]", shares: "Mapping[str, float]"
) -> "Iterator[str]":
    """What nobody can check, and what other losses were made for."""
    for term in (term for term in terms if term.entry.from_store):
        chosen = teachers_of(term, teachers, shares)
        for spec in (teacher.view.spec for teacher in teachers if teacher.name in chosen):
            if term.output == LOGITS and spec.derived_from is None:
                yield f"{term.name} takes the logits of {spec.name} for those of this data's classes, in their order"
            if term.entry.function is similarity_kl and spec.logit_bias is not None:
                yield f"{spec.name} learned with a sigmoid for each pair: similarity_binary_kl compares those"


def _needs_logits(terms: "Sequence[Term]", weights: "Mapping[str, float]", teacher: str) -> bool:
    """Whether a loss on logits is for all teachers, of which this one is not left out."""
    return bool(weights.get(teacher, 1.0)) and any(term.output == LOGITS and term.teacher is None for term in terms)


def _needs_labels(config: "Config", terms: "Sequence[Term]") -> bool:
    """Whether a training sample without a label cannot take part."""
    return not config.train.keep_unlabelled and any("labels" in term.entry.needs for term in terms)


def _has_learned(teacher: RunTeacher) -> bool:
    """Whether it was made for the data: a head, or a teacher that was tuned."""
    return teacher.view.spec.derived_from is not None


def _used(
    teachers: "Sequence[RunTeacher]", terms: "Sequence[Term]", shares: "Mapping[str, float]"
) -> tuple[RunTeacher, ...]:
    """The teachers that a loss compares with."""
    asked = {name for term in terms if term.entry.from_store for name in teachers_of(term, teachers, shares)}
    return tuple(teacher for teacher in teachers if teacher.name in asked)


def _check_trained(teachers: "Sequence[RunTeacher]", config: "Config") -> None:
    for teacher in teachers:
        view = teacher.view
        if view.spec.random_weights and not config.train.allow_random_teacher:
            raise TrainingError(
                f"the weights of {view.spec.name} in {view.store.storage.url} are random, so its targets mean nothing\n"
                "as a control, allow that with --allow-random-teacher"
            )


def _check_some_labels(teachers: "Sequence[RunTeacher]", terms: "Sequence[Term]") -> None:
    """Refuse losses that would count 0 for all samples."""
    for teacher in teachers:
        store, labelled = teacher.view.store, teacher.view.counts(default_output(teacher.view)).labelled
        if any(labelled[slot.index] for slot in store.slots if slot.shard.split == "train"):
            return
    name = next(term.name for term in terms if "labels" in term.entry.needs)
    raise TrainingError(f"losses.{name} needs labels, no training sample has one; leave it out with losses.{name}=0")


def _open_shards(config: "Config", terms: "Sequence[Term]", url: str) -> TrainingData:
    listing = list_data(url)
    if listing.classes is None:
        raise TrainingError(f"{url} names no classes; pack it with embedkd pack, or train on a store with --targets")
    splits = plain_splits(config, url, index_shards(listing), listing.root)
    return TrainingData(
        train=splits.train,
        val=_or_none(splits.val),
        test=_or_none(splits.test),
        num_classes=len(listing.classes),
        class_names=listing.classes,
        targets={},
        teacher_name=None,
        identity=_identity(splits),
        terms=tuple(terms),
        notes=tuple(splits.notes),
    )


def _identity(splits: Splits) -> dict[str, str]:
    return {"training split": _digest(splits.train), "validation split": _digest(splits.val)}


def _digest(samples: Samples) -> str:
    """Over the bytes of the shards and how many of their samples take part."""
    facts = [[slot.shard.blake2b, slot.start, count] for slot, count in zip(samples.slots, samples.counts, strict=True)]
    return blake2b_hex(canonical_json(facts))


def _teacher_identity(used: "Sequence[RunTeacher]", sources: "Mapping[str, Source]") -> dict[str, str]:
    """What is used of the teachers: their fingerprints, the outputs whose rows come along, and the views."""
    if not used:
        return {}
    views = {teacher: [view.spec.fingerprint for view in teacher.views] for teacher, _ in sources.values()}
    found = {"teacher": " ".join(teacher.view.spec.fingerprint for teacher in used), "outputs": " ".join(sources)}
    if any(views.values()):
        found["views"] = blake2b_hex(canonical_json(list(views.values())))
    return found


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
