"""Everything that reads a store, asked one after the other: each answers, or refuses in one line."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from embedkd.errors import EmbedKDError
from embedkd.records import RowStatus, Shard
from embedkd.store import (
    EmbeddingStore,
    Selection,
    TeacherView,
    append_shards,
    average,
    card,
    check_objects,
    check_output,
    copy_store,
    diff_stores,
    merge_stores,
    open_store,
    repair_store,
    seal_store,
    set_names,
    subset_store,
)
from embedkd.store.heads import head_names, read_head
from embedkd.store.inventory import inventory
from tests.strangers.forge import Files, Memory

REFUSED: Final = "refused"
MAX_LINE = 12_000  # two texts of 4,096 characters, and what is said about them

Answers = dict[tuple[object, ...], object]
Ask = Callable[..., Any]  # a question, a function, and its arguments

NEW_SHARD = Shard("new/more.tar", "train", 4096, 3, "e" * 64)


def answers(files: Files, sound: Files) -> Answers:
    """What every reading function says of a store; REFUSED where it raises one of our errors.

    Args:
        files: The store; not changed.
        sound: Another store, to compare with.

    Raises:
        Exception: Anything else than an EmbedKDError, and an EmbedKDError whose message is not for people.
    """
    found: Answers = {}

    def ask(question: tuple[object, ...], answer: Callable[..., Any], *arguments: Any) -> Any:
        try:
            found[question] = answer(*arguments)
        except EmbedKDError as error:
            check_message(error)
            found[question] = REFUSED
            return None
        return found[question]

    store = ask(("open",), lambda: open_store(Memory(files)))
    if store is None:
        return found
    found[("open",)] = _facts(store)
    ids = ask(("teachers",), lambda: store.teacher_ids) or ()
    ask(("root",), lambda: store.data_root)
    for name in ids:
        view = ask(("teacher", name), store.teacher, name)
        if view is not None:
            found[("teacher", name)] = (view.spec.to_json(), {key: asdict(plan) for key, plan in view.passes.items()})
            _ask_teacher(view, ask)
    ask(("objects",), lambda: check_objects(store))
    ask(("inventory",), lambda: [(item.key, item.record) for item in inventory(store)])
    ask(("card",), lambda: _one_page(card(store)))
    _ask_operations(files, sound, ask)
    return found


def check_message(error: EmbedKDError) -> None:
    """One line, or two, of bounded length and of nothing that a terminal acts on."""
    lines = str(error).split("\n")
    assert 1 <= len(lines) <= 2, lines
    assert all(line.isprintable() or line.replace("\xa0", " ").isprintable() for line in lines), lines
    assert len(str(error)) <= MAX_LINE, len(str(error))


def check_sense(found: Answers) -> None:
    """Whatever was read makes sense, also of a store that nobody ever wrote."""
    for question, answer in found.items():
        if question[0] == "read" and isinstance(answer, tuple):
            rows, status, keys, labels = answer
            usable = status == RowStatus.OK
            assert len(rows) == len(status) == len(keys) == len(labels)
            assert np.isfinite(rows[usable]).all()
            assert np.isnan(rows[~usable]).all()
            assert not (status == RowStatus.ABSENT).any()
        if question[0] == "class set" and isinstance(answer, tuple):
            mean, count, _ = answer
            assert np.array_equal(np.isfinite(mean).all(axis=1), count > 0)


def is_whole(found: Answers) -> bool:
    """Whether ``embedkd store verify`` would find nothing wrong."""
    checks = [answer for question, answer in found.items() if question[0] == "verify"]
    problems = [problem for check in checks if isinstance(check, tuple) for problem in check[-1]]
    return REFUSED not in checks and not problems and found.get(("objects",)) == ()


def is_verified(files: Files) -> bool:
    """The same, when nothing else is asked."""
    try:
        store = open_store(Memory(files))
        views = [store.teacher(name) for name in store.teacher_ids]
        checks = [check_output(view, output) for view in views for output in view.outputs]
        return not any(check.problems for check in checks) and not check_objects(store)
    except EmbedKDError as error:
        check_message(error)
        return False


def same(one: object, other: object) -> bool:
    """Whether two answers are the same, NaN for NaN."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other


def _facts(store: EmbeddingStore) -> tuple[object, ...]:
    return (store.uuid, store.manifest, store.capacity, store.policy, store.catalogue, store.decode_digest)


def _one_page(text: str) -> str:
    assert "\x1b" not in text
    assert "<script" not in text
    return text


def _ask_teacher(view: TeacherView, ask: Ask) -> None:
    name = view.teacher_id
    for output in ask(("outputs", name), lambda: view.outputs) or ():
        ask(("counts", name, output), _counts, view, output)
        for slot in view.store.slots:
            ask(("read", name, output, slot.index), _rows, view, output, slot)
        ask(("verify", name, output), _verified, view, output)
        for one in ask(("sets", name, output), set_names, view, output) or ():
            ask(("class set", name, output, one), _class_set, view, output, one)
        ask(("only set", name, output), _class_set, view, output, None)
        ask(("average", name, output), _average, view, output)
    for one in ask(("heads", name), head_names, view) or ():
        ask(("head", name, one), _head, view, one)


def _verified(view: TeacherView, output: str) -> tuple[object, ...]:
    return tuple(asdict(check_output(view, output)).values())


def _counts(view: TeacherView, output: str) -> tuple[object, ...]:
    counts = view.counts(output)
    return counts.committed, counts.ok, counts.labelled, counts.max_label, sorted(counts.bad)


def _rows(view: TeacherView, output: str, slot: Any) -> tuple[object, ...] | None:
    if view.commit(slot, output) is None:
        return None
    read = view.read(slot, output)
    return read.rows, read.status, read.keys, read.labels


def _class_set(view: TeacherView, output: str, name: str | None) -> tuple[object, ...]:
    made = view.class_set(name, output)
    return made.mean, made.count, made.spread


def _average(view: TeacherView, output: str) -> tuple[object, ...]:
    made = average(view, output, samples_per_class=2, seed=0)
    return made.mean, made.count, made.spread


def _head(view: TeacherView, name: str) -> tuple[object, ...]:
    head = read_head(view, name)
    return head.sha256, head.kind, head.folds


def _ask_operations(files: Files, sound: Files, ask: Ask) -> None:
    """What makes new stores, or changes one: of copies."""

    def mine() -> Memory:
        return Memory(dict(files))

    ask(("copy",), lambda: asdict(copy_store(mine(), Memory({}))))
    ask(("diff",), lambda: str(diff_stores(mine(), Memory(sound))))
    ask(("merge",), lambda: asdict(merge_stores([mine()], Memory({}), capacity=4)))
    ask(("merge two",), lambda: asdict(merge_stores([mine(), Memory(dict(sound))], Memory({}))))
    ask(
        ("subset",),
        lambda: asdict(subset_store(mine(), Memory({}), Selection(labels=frozenset({0}), slots=frozenset({0, 1})))),
    )
    ask(("append",), lambda: asdict(append_shards(mine(), (NEW_SHARD,))))
    ask(("seal",), lambda: seal_store(mine()).passes)
    ask(("repair",), lambda: asdict(repair_store(mine())))
