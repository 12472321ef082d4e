"""Comparing two stores: their data, their teachers, and how well their rows agree."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import StoreError
from embedkd.progress import Silent
from embedkd.records import RowStatus
from embedkd.store.encoding import blocks
from embedkd.store.reader import open_store, shard_identity
from embedkd.store.rows import comparable
from embedkd.store.transfer import Span, read_span, slots_by_shard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from embedkd.progress import Progress
    from embedkd.records import Shard
    from embedkd.storage import Storage
    from embedkd.store.manifest import Slot
    from embedkd.store.view import SlotRead, TeacherView

PERCENTILES = (0.1, 1, 5, 25, 50)
_LEAST, _BINS_A_DECADE = 1e-9, 100
# Distances from 1 over ten decades: an exact percentile would need every cosine of 400 million rows at once.
_EDGES = np.concatenate([[0.0], np.geomspace(_LEAST, 2.0, 10 * _BINS_A_DECADE)])


@dataclass(frozen=True)
class OutputDifference:
    """How two stores agree on one output, over the shards that both have.

    Attributes:
        teachers: Ids in the two stores.
        output: Its name.
        rows: Samples that have an embedding in both.
        equal: Of these, rows that are the same number for number.
        only: Samples with an embedding in the first store alone, and in the second alone.
        other_keys: Samples that have another key: the shards differ although they seem the same.
        cosine_mean: Over the common rows; NaN without any, like the next two.
        cosine_min: The least.
        cosine_percentiles: Percentile to cosine, to about 2 % of its distance from 1.
    """

    teachers: tuple[str, str]
    output: str
    rows: int
    equal: int
    only: tuple[int, int]
    other_keys: int
    cosine_mean: float
    cosine_min: float
    cosine_percentiles: "Mapping[str, float]"


@dataclass(frozen=True)
class StoreDifference:
    """What two stores have in common, and what not.

    Attributes:
        shards: Number of common shards.
        only: Names of shards that one store has alone.
        changed: Names of shards that both have, with other bytes, samples or split.
        same_classes: Whether both have the same class names.
        same_decoding: Whether both decode images alike.
        teachers: Ids that both have.
        only_teachers: Ids that one store has alone.
        outputs: Of the teachers that were compared.
    """

    shards: int
    only: tuple[tuple[str, ...], tuple[str, ...]]
    changed: tuple[str, ...]
    same_classes: bool
    same_decoding: bool
    teachers: tuple[str, ...]
    only_teachers: tuple[tuple[str, ...], tuple[str, ...]]
    outputs: tuple[OutputDifference, ...]


def diff_stores(
    one: "Storage",
    other: "Storage",
    *,
    pairs: "Sequence[tuple[str, str]]" = (),
    progress: "Progress | None" = None,
) -> StoreDifference:
    """Compare two stores.

    Args:
        one: The first.
        other: The second.
        pairs: Teachers to compare, by id or name; by default each with itself.
        progress: Who watches.

    Raises:
        StoreError: A teacher that is named is not there, or something that is read is broken.
    """
    watch, a, b = progress or Silent(), open_store(one), open_store(other)
    mine, theirs = ({shard.url: shard for shard in store.shards} for store in (a, b))
    common = [url for url in mine if url in theirs]
    same = [mine[url] for url in common if shard_identity(mine[url]) == shard_identity(theirs[url])]
    chosen = pairs or [(name, name) for name in a.teacher_ids if name in b.teacher_ids]
    views = [(a.teacher(first), b.teacher(second)) for first, second in chosen]
    return StoreDifference(
        shards=len(same),
        only=(tuple(url for url in mine if url not in theirs), tuple(url for url in theirs if url not in mine)),
        changed=tuple(url for url in common if shard_identity(mine[url]) != shard_identity(theirs[url])),
        same_classes=a.class_names == b.class_names,
        same_decoding=a.policy == b.policy,
        teachers=tuple(name for name in a.teacher_ids if name in b.teacher_ids),
        only_teachers=(
            tuple(name for name in a.teacher_ids if name not in b.teacher_ids),
            tuple(name for name in b.teacher_ids if name not in a.teacher_ids),
        ),
        outputs=tuple(_compare(pair, output, same, watch) for pair in views for output in _shared_outputs(*pair)),
    )


def _shared_outputs(one: "TeacherView", other: "TeacherView") -> list[str]:
    """Outputs that both have begun, of the same width.

    Raises:
        StoreError: There is none.
    """

    def width(view: "TeacherView", name: str) -> int:
        spec = view.spec.output(name)
        return 0 if spec is None else spec.dim

    found = [name for name in one.outputs if name in other.outputs and width(one, name) == width(other, name)]
    if not found:
        raise StoreError(f"{one.teacher_id} and {other.teacher_id} have no output of the same name and width")
    return found


@dataclass
class _Tally:
    """What was counted so far."""

    rows: int = 0
    equal: int = 0
    only: list[int] = field(default_factory=lambda: [0, 0])
    other_keys: int = 0
    total: float = 0.0
    least: float = float("inf")
    distances: "NDArray[np.int64]" = field(default_factory=lambda: np.zeros(len(_EDGES), np.int64))

    def add(self, one: "SlotRead", other: "SlotRead") -> None:
        """Count the rows of one shard."""
        ok, also = one.status == RowStatus.OK, other.status == RowStatus.OK
        moved = one.keys != other.keys
        self.other_keys += int(moved.sum())
        self.only[0] += int((ok & ~also).sum())
        self.only[1] += int((also & ~ok).sum())
        both = ok & also & ~moved
        places = np.flatnonzero(both)
        self.rows += len(places)
        width = len(one.stored[int(places[0])]) if len(places) else 1
        for part in blocks(len(places), width):
            self._compare(*comparable(one.stored.take(places[part]), other.stored.take(places[part])))

    def _compare(self, one: "NDArray[np.float64]", other: "NDArray[np.float64]") -> None:
        cosines = _cosines(one, other)
        self.equal += int((one == other).all(axis=1).sum())
        self.total += float(cosines.sum())
        self.least = min(self.least, float(cosines.min(initial=np.inf)))
        bins = np.searchsorted(_EDGES, 1 - cosines, side="left").clip(0, len(_EDGES) - 1)
        self.distances += np.bincount(bins, minlength=len(_EDGES))

    def percentile(self, share: float) -> float:
        """The cosine that so many percent of the rows do not exceed."""
        if not self.rows:
            return float("nan")
        above = np.cumsum(self.distances)  # from the closest rows on
        place = int(np.searchsorted(above, (1 - share / 100) * self.rows, side="left"))
        return float(1 - _EDGES[min(place, len(_EDGES) - 1)])


def _compare(
    views: "tuple[TeacherView, TeacherView]", output: str, shards: "list[Shard]", watch: "Progress"
) -> OutputDifference:
    tally, cuts = _Tally(), [slots_by_shard(view.store) for view in views]
    watch.begin(f"compare {output}", len(shards), "shards")
    try:
        for shard in shards:
            spans = [Span.of(slots[shard.url], 0, shard.rows) for slots in cuts]
            there = [_has(view, output, span.slots) for view, span in zip(views, spans, strict=True)]
            if all(there):
                tally.add(*(read_span(view, output, span) for view, span in zip(views, spans, strict=True)))
            for place in (0, 1):
                if there[place] and not there[1 - place]:
                    status = read_span(views[place], output, spans[place]).status
                    tally.only[place] += int((status == RowStatus.OK).sum())
            watch.advance(1)
    finally:
        watch.end()
    nothing = float("nan")
    return OutputDifference(
        teachers=(views[0].teacher_id, views[1].teacher_id),
        output=output,
        rows=tally.rows,
        equal=tally.equal,
        only=(tally.only[0], tally.only[1]),
        other_keys=tally.other_keys,
        cosine_mean=tally.total / tally.rows if tally.rows else nothing,
        cosine_min=tally.least if tally.rows else nothing,
        cosine_percentiles={f"{share:g}": tally.percentile(share) for share in PERCENTILES},
    )


def _has(view: "TeacherView", output: str, slots: "tuple[Slot, ...]") -> bool:
    return all(view.commit(slot, output) is not None for slot in slots)


def _cosines(one: "NDArray[np.float64]", other: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Cosines of rows, [n]; 1 for equal rows, also where they have no length."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (one * other).sum(axis=1) / lengths
    cosines[(one == other).all(axis=1)] = 1.0
    return np.asarray(np.nan_to_num(np.clip(cosines, -1.0, 1.0), nan=0.0))
