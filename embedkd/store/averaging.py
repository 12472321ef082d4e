"""Making class sets: means of rows of the training split, the teachers of CLIP-Embed-KD.

The samples of a class are chosen by hash(seed, key) and summed in float64 in (slot, ordinal) order: the result is the
same bits for any number of workers and any order in which slots were written.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import StoreError, UnknownNameError
from embedkd.records import RowStatus, blake2b_hex, canonical_json
from embedkd.store.classes import ClassSet
from embedkd.store.schema import MAX_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from embedkd.store.manifest import Slot
    from embedkd.store.view import TeacherView

SPARE_CANDIDATES = 1024  # of a class are kept beyond twice the number wanted: memory is bounded by classes, not samples
_Candidate = tuple[int, int, int]  # rank, place of the slot among the training slots, ordinal in the slot
_Chosen = list[list[tuple[int, int]]]  # for each training slot: ordinal in the slot, label


def default_name(samples_per_class: int, seed: int, generation: int = 0) -> str:
    """The name of a class set that nobody named, in a store of this generation of the manifest.

    >>> default_name(100, 0), default_name(100, 0, generation=2)
    ('n100-seed0', 'n100-seed0-g2')
    """
    return f"n{samples_per_class}-seed{seed}" + (f"-g{generation}" if generation else "")


def average(
    view: "TeacherView", output: str, *, samples_per_class: int, seed: int, name: str | None = None
) -> ClassSet:
    """Average stored rows of the training split, class by class.

    Args:
        view: The teacher's part of a store, complete for this output.
        output: The output to average.
        samples_per_class: At most this many samples a class; a class with fewer uses all.
        seed: Of the choice.
        name: Of the set; by default from the numbers.

    Raises:
        HoleError: A training slot has no commit.
        StoreError: No sample has a label, or fewer than 1 sample a class was asked for.
        UnknownNameError: The teacher has no such output.
    """
    spec = view.spec.output(output)
    if spec is None:
        raise UnknownNameError(f"output of {view.spec.name}", output, [o.name for o in view.spec.outputs])
    if samples_per_class < 1:
        raise StoreError(f"expected at least 1 sample a class, got {samples_per_class}")
    slots = [slot for slot in view.store.slots if slot.shard.split == "train"]
    chosen = _choose(view, slots, output, samples_per_class, seed)
    count = _count(view, output, chosen)
    total = np.zeros((len(count), spec.dim))
    for rows, labels in _rows_of(view, slots, output, chosen):
        np.add.at(total, labels, rows)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is the NaN that a class without samples has
        mean = total / count[:, None]
        squares = np.zeros(len(count))
        for rows, labels in _rows_of(view, slots, output, chosen):
            np.add.at(squares, labels, ((rows - mean[labels]) ** 2).sum(axis=1))
        spread = np.sqrt(squares / count)
    return ClassSet(
        name or default_name(samples_per_class, seed, view.store.manifest.generation),
        mean.astype(np.float32),
        count,
        spread.astype(np.float32),
        samples_per_class,
        seed,
        commits_digest(view, slots, output),
    )


def rank(seed: int, key: int) -> int:
    """Where a sample stands in the draw: the N with the lowest ranks of a class are averaged.

    Args:
        seed: Of the draw.
        key: The sample's u64 key.
    """
    digest = hashlib.blake2b(key.to_bytes(8, "little"), digest_size=8, key=b"%d" % seed)
    return int.from_bytes(digest.digest(), "little")


def _choose(view: "TeacherView", slots: "list[Slot]", output: str, samples_per_class: int, seed: int) -> _Chosen:
    ranked: dict[int, list[_Candidate]] = {}
    for at, slot in enumerate(slots):
        keys, labels, status = view.read_labels(slot, output)
        for ordinal in np.flatnonzero((labels >= 0) & (status == RowStatus.OK)).tolist():
            candidates = ranked.setdefault(int(labels[ordinal]), [])
            candidates.append((rank(seed, int(keys[ordinal])), at, ordinal))
            if len(candidates) > 2 * samples_per_class + SPARE_CANDIDATES:
                candidates[:] = sorted(candidates)[:samples_per_class]
    chosen: _Chosen = [[] for _ in slots]
    for label, candidates in ranked.items():
        for _, at, ordinal in sorted(candidates)[:samples_per_class]:
            chosen[at].append((ordinal, label))
    return [sorted(picks) for picks in chosen]


def _count(view: "TeacherView", output: str, chosen: _Chosen) -> "NDArray[np.int64]":
    """Samples a class: as many classes as have names, else up to the largest label."""
    labels = [label for picks in chosen for _, label in picks]
    if not labels:
        raise StoreError(
            f"{view.store.storage.url}: no training sample has a label and a row of {output}; nothing to average"
        )
    names = view.store.class_names
    classes = len(names) if names is not None else max(labels) + 1
    if classes > MAX_CLASSES:
        raise StoreError(f"expected labels below {MAX_CLASSES}, got {max(labels)}; nothing was averaged")
    return np.bincount(labels, minlength=classes).astype(np.int64)


def _rows_of(
    view: "TeacherView", slots: "list[Slot]", output: str, chosen: _Chosen
) -> "Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]":
    for slot, picks in zip(slots, chosen, strict=True):
        if picks:
            ordinals, labels = np.array(picks, dtype=np.int64).T
            yield view.read(slot, output).rows[ordinals].astype(np.float64), labels


def commits_digest(view: "TeacherView", slots: "list[Slot]", output: str) -> str:
    """Over the committed objects that the set depends on; which pass, attempt or time vouches for them is left out."""
    schemas = (*view.row_schemas(), *view.output_schemas(output))
    facts = []
    for slot in slots:
        commit = view.committed(slot, output)
        records = [commit.record(schema.chunk_key(slot.index)) for schema in schemas]
        facts.append([slot.index, [[record.key, record.blake2b] for record in records]])
    return blake2b_hex(canonical_json(facts))
