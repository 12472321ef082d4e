"""The teachers that a run learns from: stores as ``train.targets`` names them, opened once each."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError, UnknownNameError
from embedkd.records import LOGITS
from embedkd.store import TeacherView, open_store
from embedkd.store.heads import is_derived, is_head_on

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embedkd.store import EmbeddingStore

_UNSAFE = re.compile(r"[^a-z0-9_-]+")


@dataclass(frozen=True)
class RunTeacher:
    """One of the teachers of a run.

    Attributes:
        name: Short, and no other's of the run: ``vit-l-32``.
        view: Its part of its store.
        views: Stored views of it that the student sees; none for whole images.
        base: Name of the teacher of the run that it is a head on; None where there is none.
        place: Its store, as the config names it.
    """

    name: str
    view: TeacherView
    views: tuple[TeacherView, ...] = ()
    base: str | None = None
    place: str = ""


def store_of(entry: str) -> str:
    """The store of an entry of ``train.targets``.

    >>> store_of("s3://bucket/a.zarr#vit-l-32"), store_of("a.zarr")
    ('s3://bucket/a.zarr', 'a.zarr')
    """
    return entry.partition("#")[0]


def stores_of(entries: "Sequence[str]") -> str:
    """The stores of ``train.targets`` for people, each once.

    >>> stores_of(["a.zarr#x", "a.zarr#y", "b.zarr"])
    'a.zarr and b.zarr'
    """
    return " and ".join(dict.fromkeys(map(store_of, entries)))


def open_teacher(entry: str, teacher: str | None, opened: "dict[str, EmbeddingStore] | None" = None) -> TeacherView:
    """The teacher that an entry of ``train.targets`` names.

    Args:
        entry: A store, behind ``#`` its teacher.
        teacher: Which one where the entry does not say; None for the only one.
        opened: Stores that are open already, by place; this one is put there.

    Raises:
        StoreError: The store cannot be opened.
        ConfigError: It has no such teacher, or several.
    """
    url, _, named = entry.partition("#")
    stores = {} if opened is None else opened
    if url not in stores:
        stores[url] = open_store(url)
    return stores[url].teacher(named or teacher)


def open_teachers(
    entries: "Sequence[str]",
    teacher: str | None,
    views: int | None = 0,
    *,
    needs_logits: "Callable[[str], bool] | None" = None,
) -> tuple[RunTeacher, ...]:
    """All teachers of a run, in the order of the entries, and behind them heads that are needed beside them.

    Args:
        entries: Of ``train.targets``.
        teacher: As for `open_teacher`.
        views: How many of each one's stored views are wanted; None for all.
        needs_logits: From the name of a teacher to whether logits are wanted of it: where it has none of the store's
            classes, the head on it in that store comes along.

    Raises:
        StoreError: A store cannot be opened.
        ConfigError: One has no such teacher, or several; or one teacher is named twice, or has several heads of which
            none is named.
    """
    opened: dict[str, EmbeddingStore] = {}
    found = [open_teacher(entry, teacher, opened) for entry in entries]
    if needs_logits is not None:
        asked = [needs_logits(name) for name in _names(found)]
        heads = [(e, _head(e, view, found)) for e, view, needed in zip(entries, found, asked, strict=True) if needed]
        found += [head for _, head in heads if head is not None]
        entries = [*entries, *(f"{store_of(e)}#{head.teacher_id}" for e, head in heads if head is not None)]
    fingerprints = [view.spec.fingerprint for view in found]
    for at, (entry, view) in enumerate(zip(entries, found, strict=True)):
        first = fingerprints.index(fingerprints[at])
        if first != at:
            raise ConfigError(
                f"train.targets: expected each teacher once, got {view.spec.name} in {entries[first]} and {entry}; "
                "name one with STORE#TEACHER, or join stores of other shards with embedkd store merge"
            )
    names = _names(found)
    return tuple(
        RunTeacher(name, view, _stored_views(view, entry, views), _base_of(view, names, found), store_of(entry))
        for name, view, entry in zip(names, found, entries, strict=True)
    )


def _names(found: "Sequence[TeacherView]") -> list[str]:
    """What the teachers of a run are called: by their names, or their ids where two would be called alike."""
    short = [short_name(view.spec.name) for view in found]
    return [_safe(one if short.count(one) == 1 else view.teacher_id) for one, view in zip(short, found, strict=True)]


def _head(entry: str, view: TeacherView, others: "Sequence[TeacherView]") -> TeacherView | None:
    """The head on a teacher in its store that has its logits; None where it has some of the classes, or one is named.

    Raises:
        ConfigError: There are several.
    """
    if _has_logits(view) or any(is_head_on(other.spec, view.spec) for other in others):
        return None
    teachers = view.store.teachers.items()
    ids = [name for name, spec in teachers if spec.view is None and is_head_on(spec, view.spec)]
    if len(ids) > 1:
        names = ", ".join(view.store.teachers[name].name for name in ids)
        raise ConfigError(
            f"losses on logits need one head on {view.spec.name}, {entry} has {len(ids)} ({names}); "
            f"name one beside it with --targets {store_of(entry)}#HEAD"
        )
    return TeacherView(view.store, ids[0]) if ids else None


def _has_logits(view: TeacherView) -> bool:
    """Whether the store has logits of its classes; a classifier of ImageNet's has others."""
    logits, names = view.spec.output(LOGITS), view.store.class_names
    if logits is None or LOGITS not in view.outputs:
        return False
    return logits.dim == (len(names) if names is not None else 1 + int(view.counts(LOGITS).max_label.max(initial=-1)))


def _base_of(view: TeacherView, names: "Sequence[str]", found: "Sequence[TeacherView]") -> str | None:
    return next((name for name, one in zip(names, found, strict=True) if is_head_on(view.spec, one.spec)), None)


def _stored_views(view: TeacherView, entry: str, count: int | None) -> tuple[TeacherView, ...]:
    """So many stored views of a teacher, in their order.

    Raises:
        ConfigError: There are fewer, or the teacher is a view itself.
    """
    if view.spec.view is not None:
        raise ConfigError(
            f"{entry} names a stored view of {view.spec.name}; name that teacher, and say how many of its views by "
            "train.views"
        )
    if count == 0:
        return ()
    ids = view.store.views_of(view.teacher_id)
    if count is not None and len(ids) < count:
        more = "embedkd head, again" if is_derived(view.spec) else f"embedkd precompute --views {count}"
        raise ConfigError(
            f"train.views: expected at most {len(ids)}, the stored views of {view.spec.name} in {entry}, got {count}; "
            f"make more with {more}"
        )
    return tuple(TeacherView(view.store, teacher_id) for teacher_id in ids[:count])


def found_before(entries: "Sequence[str]", recorded: "Sequence[str]") -> tuple[str, ...]:
    """The entries to go on with: those that a run recorded, where the same stores are named and no teacher is.

    >>> found_before(["a.zarr"], ["a.zarr#x", "a.zarr#y"]), found_before(["b.zarr"], ["a.zarr#x"])
    (('a.zarr#x', 'a.zarr#y'), ('b.zarr',))
    """
    same = set(entries) == {store_of(entry) for entry in recorded}
    return tuple(recorded if same else entries)


def speakers(teachers: "Sequence[RunTeacher]", output: str | None) -> tuple[str, ...]:
    """Names of the teachers that a loss for all teachers compares with.

    Where a head and the teacher that it is on both take part in a run, the head speaks in losses on logits, and the
    teacher in all others.

    Args:
        teachers: All of the run.
        output: What the loss compares with; None for each teacher's own embedding.
    """
    if output == LOGITS:
        with_head = {teacher.base for teacher in teachers}
        return tuple(teacher.name for teacher in teachers if teacher.name not in with_head)
    return tuple(teacher.name for teacher in teachers if teacher.base is None)


def named_entries(teachers: "Sequence[RunTeacher]") -> tuple[str, ...]:
    """``train.targets`` with every teacher named: what a run finds again when its stores have got others."""
    return tuple(f"{one.place}#{one.view.teacher_id}" for one in teachers)


def shares_of(teachers: "Sequence[RunTeacher]", weights: "Mapping[str, float]") -> dict[str, float]:
    """Name of each teacher to its share of the weight of a loss; they add up to 1.

    Args:
        teachers: All of the run.
        weights: Name to weight; 1 where a name is missing.

    Raises:
        UnknownNameError: There is no such teacher.
        ConfigError: All weights are 0.
    """
    names = [teacher.name for teacher in teachers]
    for name in weights:
        if name not in names:
            raise UnknownNameError("teacher of train.teacher_weights", name, names)
    given = {one.name: weights.get(one.name, weights.get(one.base or one.name, 1.0)) for one in teachers}
    total = sum(given.values())
    if names and not total:
        raise ConfigError("train.teacher_weights: expected a teacher with a weight above 0, got none")
    return {name: weight / total for name, weight in given.items()}


def short_name(teacher: str) -> str:
    """What a teacher is called within a run: its name without family and weights.

    >>> short_name("openclip:ViT-B-32@laion2b_s34b_b79k"), short_name("packaged:efficientnet-lite0")
    ('vit-b-32', 'efficientnet-lite0')
    """
    return _safe(teacher.partition("@")[0].rpartition(":")[2].rstrip("/").rpartition("/")[2])


def _safe(name: str) -> str:
    return _UNSAFE.sub("-", name.lower()).strip("-_") or "teacher"
