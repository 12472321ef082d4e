"""Making class sets: centres of rows of the training split, the teachers of CLIP-Embed-KD.

The samples of a class are chosen by hash(seed, key) and summed in float64 in an order that the rows alone decide: the
result is the same bits for any number of workers and any order in which slots were written.
"""

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import StoreError, UnknownNameError
from embedkd.records import RowStatus, blake2b_hex, canonical_json
from embedkd.store.classes import METHODS, ClassSet
from embedkd.store.schema import MAX_CLASSES, class_schemas
from embedkd.store.trimming import cut, trimmed_means

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from embedkd.store.classes import Method
    from embedkd.store.manifest import Slot
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.trimming import Rows
    from embedkd.store.view import TeacherView

SPARE_CANDIDATES = 1024  # of a class are kept beyond twice the number wanted: memory is bounded by classes, not samples
BLOCK_BYTES = 1 << 27  # of rows are held at once where a method needs all rows of a class
_NAMED_CLASSES = 10  # in an error
_Candidate = tuple[int, int, int]  # rank, place of the slot among the training slots, ordinal in the slot
_Chosen = list[list[tuple[int, int]]]  # for each training slot: ordinal in the slot, label


def default_name(
    samples_per_class: int, seed: int, generation: int = 0, *, method: "Method" = "mean", trim: float = 0.1
) -> str:
    """The name of a class set that nobody named, in a store of this generation of the manifest.

    Nothing in a store is ever overwritten, so a set that is made again after shards were appended needs another name.

    >>> default_name(100, 0), default_name(100, 0, generation=2)
    ('n100-seed0', 'n100-seed0-g2')
    >>> default_name(100, 0, method="median"), default_name(100, 7, method="trimmed", trim=0.25)
    ('median-n100-seed0', 'trimmed0.25-n100-seed7')
    """
    how = "" if method == "mean" else f"{method}{trim if method == 'trimmed' else ''}-"
    return f"{how}n{samples_per_class}-seed{seed}" + (f"-g{generation}" if generation else "")


def average(
    view: "TeacherView",
    output: str,
    *,
    samples_per_class: int,
    seed: int,
    method: "Method" = "mean",
    trim: float = 0.1,
    name: str | None = None,
    allow_empty: bool = True,
) -> ClassSet:
    """Average stored rows of the training split, class by class.

    Rows are read twice, slot by slot, for means; for the other methods once more for every 128 MiB (as float32) of
    chosen rows, whatever the number of samples a class is.

    Args:
        view: The teacher's part of a store, complete for this output.
        output: The output to average.
        samples_per_class: At most this many samples a class; a class with fewer uses all.
        seed: Of the choice.
        method: "mean"; "median" of each dimension; or "trimmed", the mean of each dimension without its largest and
            smallest values.
        trim: The share of values that "trimmed" leaves out at each side, above 0 and below 0.5.
        name: Of the set; by default from the numbers.
        allow_empty: Whether classes without a row are let through, as NaN with a count of 0.

    Raises:
        HoleError: A training slot has no commit.
        FormatError: There are more classes than the format can hold the rows of.
        StoreError: No sample has a label, a class has no row and must have one, or a number is outside its range.
        UnknownNameError: The teacher has no such output, or there is no such method.
    """
    spec = view.spec.output(output)
    if spec is None:
        raise UnknownNameError(f"output of {view.spec.name}", output, [o.name for o in view.spec.outputs])
    _check(samples_per_class, method, trim)
    slots = [slot for slot in view.store.slots if slot.shard.split == "train"]
    chosen = _choose(view, slots, output, samples_per_class, seed)
    count = _count(view, output, chosen)
    class_schemas(view.teacher_id, "", output, len(count), spec.dim)  # refuses what would be too large to write
    if not allow_empty:
        _refuse_empty(view, output, count)
    if method == "mean":
        centre = _means(_rows_of(view, slots, output, chosen), count, spec.dim)
    else:
        cuts = np.array([cut(n, trim if method == "trimmed" else None) for n in count.tolist()])
        centre = _by_blocks(partial(_rows_of, view, slots, output, chosen), count, cuts, spec.dim)
    return ClassSet(
        name or default_name(samples_per_class, seed, view.store.manifest.generation, method=method, trim=trim),
        centre.astype(np.float32),
        count,
        _spread(_rows_of(view, slots, output, chosen), centre, count).astype(np.float32),
        samples_per_class,
        seed,
        commits_digest(view, slots, output),
        method=method,
        trim=float(trim) if method == "trimmed" else None,
    )


def _check(samples_per_class: int, method: "Method", trim: float) -> None:
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    if samples_per_class < 1:
        raise StoreError(f"expected at least 1 sample a class, got {samples_per_class}")
    if method == "trimmed" and not 0 < trim < 0.5:
        raise StoreError(f"expected to trim a share above 0 and below 0.5 at each side, got {trim}")


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
        found = view.read_samples(slot, output)
        for ordinal in np.flatnonzero((found.labels >= 0) & (found.status == RowStatus.OK)).tolist():
            candidates = ranked.setdefault(int(found.labels[ordinal]), [])
            candidates.append((rank(seed, int(found.keys[ordinal])), at, ordinal))
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


def list_classes(store: "EmbeddingStore", numbers: "Sequence[int]") -> str:
    """The first ten of these classes by name, or by number where the data named none, and how many more there are."""
    names = store.class_names
    named = ", ".join(str(n) if names is None else names[n] for n in numbers[:_NAMED_CLASSES])
    return named + (f" and {len(numbers) - _NAMED_CLASSES} more" if len(numbers) > _NAMED_CLASSES else "")


def _refuse_empty(view: "TeacherView", output: str, count: "NDArray[np.int64]") -> None:
    empty = np.flatnonzero(count == 0).tolist()
    if empty:
        named = list_classes(view.store, empty)
        raise StoreError(
            f"{len(empty)} of {len(count)} classes have no training row of {output}: {named}\n"
            "nothing was written; with --allow-empty they become NaN with a count of 0"
        )


def _rows_of(
    view: "TeacherView", slots: "list[Slot]", output: str, chosen: _Chosen, block: slice = slice(None)
) -> "Iterator[tuple[NDArray[np.floating[Any]], NDArray[np.int64]]]":
    """The chosen rows of each slot [n, D] in order, or some of their dimensions, and their labels [n]."""
    for slot, picks in zip(slots, chosen, strict=True):
        if picks:
            ordinals, labels = np.array(picks, dtype=np.int64).T
            yield view.read(slot, output).stored.take(ordinals).decode()[:, block], labels


def _means(rows: "Rows", count: "NDArray[np.int64]", dim: int) -> "NDArray[np.float64]":
    total = np.zeros((len(count), dim))
    for some, labels in rows:
        np.add.at(total, labels, some.astype(np.float64))
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that a class without samples has
        return total / count[:, None]


def _by_blocks(
    rows_of: "Callable[[slice], Rows]", count: "NDArray[np.int64]", cuts: "NDArray[np.int64]", dim: int
) -> "NDArray[np.float64]":
    """Trimmed means of some dimensions at a time, so that the rows of all classes fit into memory."""
    width = max(1, BLOCK_BYTES // (4 * int(count.sum())))
    centre = np.empty((len(count), dim))
    for first in range(0, dim, width):
        block = slice(first, min(first + width, dim))
        centre[:, block] = trimmed_means(rows_of(block), count, cuts, block.stop - block.start)
    return centre


def _spread(rows: "Rows", centre: "NDArray[np.float64]", count: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """Root mean square distance of the rows from the centre of their class, [C]."""
    squares = np.zeros(len(count))
    for some, labels in rows:
        np.add.at(squares, labels, ((some.astype(np.float64) - centre[labels]) ** 2).sum(axis=1))
    with np.errstate(invalid="ignore"):
        return np.sqrt(squares / count)


def commits_digest(view: "TeacherView", slots: "list[Slot]", output: str) -> str:
    """Over the committed objects that the set depends on; which pass, attempt or time vouches for them is left out."""
    schemas = (*view.row_schemas(), *view.output_schemas(output))
    facts = []
    for slot in slots:
        commit = view.committed(slot, output)
        records = [commit.record(schema.chunk_key(slot.index)) for schema in schemas]
        facts.append([slot.index, [[record.key, record.blake2b] for record in records]])
    return blake2b_hex(canonical_json(facts))
