"""Everything that is ever done to a store, each on a store as small as it can be and still have all parts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from embedkd.errors import EmbedKDError, IntegrityError
from embedkd.records import DecodePolicy, OutputSpec, Preprocess, Shard, TeacherSpec
from embedkd.seeding import generator
from embedkd.storage import Storage
from embedkd.store import (
    EmbeddingStore,
    Pass,
    PassWriter,
    Selection,
    TeacherView,
    append_shards,
    average,
    check_objects,
    check_output,
    copy_store,
    create_store,
    diff_stores,
    merge_stores,
    open_store,
    repair_store,
    seal_store,
    set_names,
    subset_store,
    write_card,
    write_class_set,
)
from embedkd.store.heads import Head, head_names, read_head, write_head
from tests.faults.held import HeldStorage, State
from tests.store.samples import TRAIN, VAL, rows_of

CAPACITY = 4
CLASSES = ("ant", "bee", "cat")
SHARDS = tuple(
    Shard(f"{split}-{i}.tar", split, 4_096 * (i + 1), rows, f"{i + 1:x}" * 64)
    for i, (split, rows) in enumerate(((TRAIN, 6), (TRAIN, 3), (VAL, 2)))
)
SMALL = SHARDS[1:]
LATER = Shard("train-9.tar", "train", 8_192, 4, "9" * 64)
ONE = TeacherSpec(
    name="vit:One",
    model="one",
    weights_sha256="1" * 64,
    outputs=(OutputSpec("cls", 3), OutputSpec("pooled", 2, "bfloat16")),
    preprocess=Preprocess(8, (8, 8), "bicubic", (0.5,) * 3, (0.5,) * 3),
    normalised=False,
    precision="float32",
    source="tests",
)
OTHER = replace(
    ONE,
    name="vit:Other",
    weights_sha256="2" * 64,
    outputs=(OutputSpec("cls", 2, "int8"), OutputSpec("logits", 4, "top2")),
)
PASSES: tuple[tuple[TeacherSpec, tuple[str, ...]], ...] = (
    (ONE, ("cls",)),
    (ONE, ("pooled",)),
    (OTHER, ("cls", "logits")),
)
Storages = Mapping[str, Storage]


def create(storage: Storage, shards: Sequence[Shard] = SHARDS, capacity: int = CAPACITY) -> EmbeddingStore:
    """The store, made or opened."""
    return create_store(
        storage, tuple(shards), root="data:tests", classes=CLASSES, policy=DecodePolicy(), capacity=capacity
    )


def fill(
    store: EmbeddingStore,
    passes: Iterable[tuple[TeacherSpec, tuple[str, ...]]] = PASSES,
    slots: Iterable[int] | None = None,
    noise: float = 0.0,
) -> None:
    """Every slot that has no commit, as precompute does it."""
    chosen = None if slots is None else set(slots)
    for spec, outputs in passes:
        writer = PassWriter(store, spec, Pass(outputs, 8, 1, "a processor"))
        for slot in store.slots:
            if (chosen is None or slot.index in chosen) and not writer.is_committed(slot):
                writer.write(slot, rows_of(slot, spec, outputs, noise), {"id": "an attempt"})


def add_class_set(storage: Storage) -> None:
    """Average, and write the set."""
    view = open_store(storage).teacher("vit:One")
    write_class_set(view, "cls", average(view, "cls", samples_per_class=2, seed=0))


def add_head(storage: Storage, teacher: str = "vit:One") -> None:
    """A head on `cls`, with two folds."""
    view = open_store(storage).teacher(teacher)
    spec = view.spec.output("cls")
    assert spec is not None
    rng = generator(0, "head")
    shape = (3, len(CLASSES), spec.dim)
    weight, bias = (rng.normal(size=size).astype(np.float32) for size in (shape, shape[:2]))
    made = Head("linear", "linear", "cls", weight, bias, normalise=True, folds=2, seed=1, l2=0.1, made_from="e" * 64)
    write_head(view, made)


def whole(shards: Sequence[Shard] = SHARDS, *, sealed: bool = False) -> State:
    """A finished store with everything in it; sealed, appended to, and sealed again, if it is."""
    storage = HeldStorage()
    if sealed:
        fill(create(storage, shards[:-1]))
        seal_store(storage)
        append_shards(storage, tuple(shards))
        fill(open_store(storage))
    else:
        fill(create(storage, shards))
    add_class_set(storage)
    add_head(storage)
    if sealed:
        seal_store(storage)
    return storage.state


def views_of(store: EmbeddingStore) -> list[TeacherView]:
    return [store.teacher(name) for name in store.teacher_ids]


def read_everything(storage: Storage) -> dict[tuple[str, ...], object]:
    """All that any reader could use: rows with keys, labels and places; class sets; heads.

    Raises:
        EmbedKDError: Something of it cannot be used.
    """
    found: dict[tuple[str, ...], object] = {}
    for view in views_of(open_store(storage)):
        for output in view.outputs:
            for slot in view.store.slots:
                if view.commit(slot, output) is not None:
                    found[view.teacher_id, output, str(slot.index)] = bytes_of(view, slot.index, output)
            for name in set_names(view, output):
                made = view.class_set(name, output)
                found[view.teacher_id, output, name] = made.mean.tobytes() + made.count.tobytes()
        for name in head_names(view):
            found[view.teacher_id, name] = read_head(view, name).sha256
    return found


def bytes_of(view: TeacherView, slot: int, output: str) -> bytes:
    """Everything that is known of the samples of one slot."""
    read = view.read(slot, output)
    parts = (read.rows, read.status, read.keys, read.labels, read.places)
    return b"".join(part.tobytes() for part in parts)


def check_message(error: EmbedKDError) -> None:
    """It is a line for people."""
    assert str(error)
    assert "\n" not in str(error)
    assert "Traceback" not in str(error)


def problems_of(storage: Storage) -> list[str]:
    """What `embedkd store verify` finds.

    Raises:
        EmbedKDError: The store cannot be opened.
    """
    store = open_store(storage)
    found = [problem for view in views_of(store) for o in view.outputs for problem in check_output(view, o).problems]
    return [*found, *check_objects(store)]


def verify(storage: Storage) -> None:
    """As the command does: an error where there is a problem.

    Raises:
        EmbedKDError: There is one.
    """
    problems = problems_of(storage)
    if problems:
        raise IntegrityError(problems[0])


@dataclass(frozen=True)
class Scene:
    """One operation.

    Attributes:
        name: What is done.
        before: Storage by name to what it holds.
        act: Does it; gives what it observes.
        only_reads: Whether it writes nothing.
    """

    name: str
    before: Callable[[], dict[str, State]]
    act: Callable[[Storages], object]
    only_reads: bool = False

    def __str__(self) -> str:
        return self.name


def _damaged() -> State:
    """Sealed; a chunk was changed, another is gone, metadata was emptied, and a commit was cut."""
    state = whole(SMALL, sealed=True)
    chunks = sorted(key for key in state if "/c/0/" in key and "cls" in key and "classes" not in key)
    state[chunks[0]] = state[chunks[0]][:-1] + b"?"
    del state[chunks[1]]
    (metadata,) = (key for key in state if key.endswith("pooled_status/zarr.json"))
    state[metadata] = b"{}"
    commit = min(key for key in state if key.endswith("commits/1.json"))
    state[commit] = state[commit][:100]
    return state


def _parts() -> dict[str, State]:
    """Two parts that share a shard, and a teacher that only one has."""
    found: dict[str, State] = {"target": {}}
    for name, shards, passes in (("store", SMALL, PASSES[:2]), ("other", SMALL[1:], PASSES[1:])):
        storage = HeldStorage()
        fill(create(storage, shards), passes)
        found[name] = storage.state
    return found


def _begun() -> State:
    """Sealed; more was computed since, and averaged."""
    storage = HeldStorage()
    fill(create(storage), PASSES[:1], slots=(0, 1))
    seal_store(storage)
    fill(open_store(storage))
    add_class_set(storage)
    return storage.state


def _write(storages: Storages) -> None:
    fill(create(storages["store"]))


def _seal(storages: Storages) -> None:
    seal_store(storages["store"])


def _append(storages: Storages) -> None:
    append_shards(storages["store"], (LATER,))


def _merge(storages: Storages) -> None:
    merge_stores([storages["store"], storages["other"]], storages["target"])


def _merge_again(storages: Storages) -> None:
    merge_stores([storages["store"], storages["other"]], storages["target"], capacity=2 * CAPACITY)


def _subset(storages: Storages) -> None:
    subset_store(storages["store"], storages["target"], Selection(labels=frozenset({0, 2})))


def _copy(storages: Storages) -> None:
    copy_store(storages["store"], storages["target"])


def _repair(storages: Storages) -> None:
    repair_store(storages["store"])


def _average(storages: Storages) -> None:
    add_class_set(storages["store"])


def _head(storages: Storages) -> None:
    add_head(storages["store"])


def _card(storages: Storages) -> None:
    write_card(storages["store"])


def _read(storages: Storages) -> object:
    return read_everything(storages["store"])


def _verify(storages: Storages) -> None:
    verify(storages["store"])


def _diff(storages: Storages) -> object:
    return diff_stores(storages["store"], storages["other"])


def _computed() -> State:
    storage = HeldStorage()
    fill(create(storage))
    return storage.state


SCENES = (
    Scene("write", lambda: {"store": {}}, _write),
    Scene("seal", lambda: {"store": whole()}, _seal),
    Scene("seal again", lambda: {"store": _begun()}, _seal),
    Scene("append", lambda: {"store": whole(sealed=True)}, _append),
    Scene("merge", _parts, _merge),
    Scene("merge to another capacity", _parts, _merge_again),
    Scene("subset", lambda: {"store": whole(SMALL, sealed=True), "target": {}}, _subset),
    Scene("copy", lambda: {"store": whole(SMALL, sealed=True), "target": {}}, _copy),
    Scene("repair", lambda: {"store": _damaged()}, _repair),
    Scene("average", lambda: {"store": _computed()}, _average),
    Scene("head", lambda: {"store": _computed()}, _head),
    Scene("card", lambda: {"store": whole(SMALL, sealed=True)}, _card),
    Scene("read", lambda: {"store": whole(SMALL)}, _read, only_reads=True),
    Scene("read what is sealed", lambda: {"store": whole(SMALL, sealed=True)}, _read, only_reads=True),
    Scene("verify", lambda: {"store": whole(SMALL, sealed=True)}, _verify, only_reads=True),
    Scene("diff", lambda: {"store": whole(SMALL), "other": whole(SMALL, sealed=True)}, _diff, only_reads=True),
)
