"""A store under everything that can happen to it, beside a model of it.

Writers write slots, stall before any put and wake up any time later, or die there. Meanwhile shards are appended, and
the store is sealed, verified, damaged and repaired, averaged, copied and cut, and readers that opened it at any time
read again. What was committed must read back equal; nothing else may be readable.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from embedkd.errors import ConflictError, EmbedKDError, HoleError, StoreError, UnknownNameError
from embedkd.records import OutputSpec, RowStatus, Shard, Split, TeacherSpec
from embedkd.storage import Storage
from embedkd.store import (
    EmbeddingStore,
    Pass,
    PassWriter,
    Selection,
    Slot,
    append_shards,
    copy_store,
    merge_stores,
    open_store,
    repair_store,
    seal_store,
    subset_store,
)
from tests.faults.held import HeldStorage
from tests.faults.scenes import CLASSES, add_class_set, check_message, create, problems_of, verify, views_of
from tests.faults.scenes import ONE as A_TEACHER
from tests.faults.scenes import OTHER as ANOTHER
from tests.faults.stalling import Stalled
from tests.store.samples import rows_of

PLAIN = (OutputSpec("cls", 3), OutputSpec("pooled", 2, "float32"))  # so that the model can do without any codec
ONE, OTHER = replace(A_TEACHER, outputs=PLAIN), replace(ANOTHER, outputs=PLAIN[:1])
PASSES: dict[str, tuple[TeacherSpec, tuple[str, ...]]] = {
    "one, cls": (ONE, ("cls",)),
    "one, both": (ONE, ("cls", "pooled")),
    "other": (OTHER, ("cls",)),
}
NOISE = (0.0, 1e-5)  # one machine and another
SPLITS: tuple[Split, ...] = ("train", "val", "train")
_COMMIT = re.compile(r"teachers/([^/]+)/([^/]+)/commits/(\d+)\.json")
_OBJECT = re.compile(r"(rows/[a-z]+|teachers/[^/]+/[a-z_]+)/c/(\d+)(/0)?")

passes = st.sampled_from(sorted(PASSES))
noises = st.sampled_from(NOISE)
slots = st.integers(0, 11)
stops = st.integers(0, 30)


def shard(number: int, rows: int) -> Shard:
    split = SPLITS[number % len(SPLITS)]
    return Shard(f"{split}-{number}.tar", split, 4_096 * (rows + 1), rows, f"{number + 1:02x}" * 32)


class WatchedStorage(HeldStorage):
    """Knows which commits were put and not removed: that is the model."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: set[tuple[str, str, int]] = set()

    def put_new(self, key: str, data: bytes) -> None:
        super().put_new(key, data)
        if found := _COMMIT.fullmatch(key):
            self.commits.add((found[1], found[2], int(found[3])))

    def remove(self, key: str) -> None:
        super().remove(key)
        if found := _COMMIT.fullmatch(key):
            self.commits.discard((found[1], found[2], int(found[3])))


def write(storage: Storage, name: str, index: int, noise: float) -> None:
    """One slot, from opening the store to the commit."""
    spec, outputs = PASSES[name]
    store = open_store(storage)
    writer = PassWriter(store, spec, Pass(outputs, 8, 1, "a processor"))
    slot = store.slots[index % len(store.slots)]
    if not writer.is_committed(slot):
        writer.write(slot, rows_of(slot, spec, outputs, noise), {"noise": noise})


class StoreMachine(RuleBasedStateMachine):
    """See the module."""

    stalled = Bundle("stalled")
    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.storage = WatchedStorage()
        self.shards = 2
        self.broken: set[int] = set()
        self.asleep: list[Stalled] = []
        self._victims: set[tuple[str, str, int]] = set()

    @initialize()
    def make(self) -> None:
        create(self.storage, [shard(0, 6), shard(1, 2)])

    # What may raise, and what it may have changed then, is said once, here.

    def _attempt(self, action: Callable[[], object], *allowed: type[EmbedKDError]) -> bool:
        """Whether it came to its end; only these errors may end it, and any where something is broken."""
        try:
            action()
        except EmbedKDError as error:
            check_message(error)
            if not self.broken and not isinstance(error, allowed):
                raise AssertionError(f"this must not fail: {error}") from error
            return False
        return True

    @rule(name=passes, index=slots, noise=noises)
    def write_a_slot(self, name: str, index: int, noise: float) -> None:
        if self._attempt(lambda: write(self.storage, name, index, noise)):
            spec, outputs = PASSES[name]
            slot = index % len(open_store(self.storage).slots)
            assert (spec.teacher_id, Pass(outputs, 1, 1, "").pass_id, slot) in self.storage.commits

    @rule(name=passes, index=slots)
    def write_other_rows(self, name: str, index: int) -> None:
        """Where rows are, others are refused, and nothing changes."""
        spec, outputs = PASSES[name]
        store = open_store(self.storage)
        slot = store.slots[index % len(store.slots)]
        there = {output for output in outputs if self._is_committed(spec.teacher_id, output, slot.index)}
        rows = rows_of(slot, spec, outputs, 1.0)
        if not there or not (rows.status[min(there)] == RowStatus.OK).any() or slot.index in self.broken:
            return
        writer = PassWriter(store, spec, Pass(outputs, 8, 1, "a processor"))
        before = {key: data for key, data in self.storage.state.items() if "/c/" in key}
        first = outputs[0]
        if first not in there:
            return
        assert not self._attempt(lambda: writer.write(slot, rows, {}), ConflictError)
        assert {key: data for key, data in self.storage.state.items() if "/c/" in key} == before

    @rule(target=stalled, name=passes, index=slots, noise=noises, stop=stops)
    def begin_to_write(self, name: str, index: int, noise: float, stop: int) -> Stalled:
        return self._begin(lambda storage: write(storage, name, index, noise), stop)

    @rule(target=stalled, rows=st.integers(0, 8), stop=stops)
    def begin_to_append(self, rows: int, stop: int) -> Stalled:
        number = self.shards
        self.shards += 1
        return self._begin(lambda storage: append_shards(storage, (shard(number, rows),)), stop)

    @rule(target=stalled, stop=stops)
    def begin_to_seal(self, stop: int) -> Stalled:
        return self._begin(seal_store, stop)

    def _begin(self, action: Callable[[Storage], object], stop: int) -> Stalled:
        begun = Stalled(self.storage, action, stop)
        self.asleep.append(begun)
        return begun

    @rule(one=consumes(stalled))
    def wake_up(self, one: Stalled) -> None:
        """It may find that somebody else sealed or appended meanwhile, or that its slot broke."""
        self.asleep.remove(one)
        self._attempt(one.wake, ConflictError)

    @rule(one=consumes(stalled))
    def die(self, one: Stalled) -> None:
        self.asleep.remove(one)
        one.die()

    @rule(rows=st.integers(0, 8))
    def append(self, rows: int) -> None:
        before = len(open_store(self.storage).shards)
        made = shard(self.shards, rows)
        self.shards += 1
        if self._attempt(lambda: append_shards(self.storage, (made,))):
            assert [s.url for s in open_store(self.storage).shards[before:]] == [made.url]

    @rule()
    def seal(self) -> None:
        if self._attempt(lambda: seal_store(self.storage)) and not self.asleep:
            assert not seal_store(self.storage).new

    @rule()
    def average(self) -> None:
        """Needs every training slot; after a repair the same set of other bytes is refused."""
        self._attempt(lambda: add_class_set(self.storage), StoreError, UnknownNameError)

    @rule()
    def verify(self) -> None:
        problems = problems_of(self.storage)
        assert bool(problems) == bool(self.broken), problems

    @precondition(lambda self: not self.asleep and not self.broken)
    @rule(data=st.data(), kind=st.sampled_from(["flip", "cut", "gone"]))
    def damage(self, data: st.DataObject, kind: str) -> None:
        """A disk loses something of one committed object."""
        keys = sorted(key for key in self.storage.state if (found := _OBJECT.fullmatch(key)) and self._counts(found))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        old = self.storage.state[key]
        new = {"flip": bytes([old[0] ^ 1]) + old[1:], "cut": old[:-1]}
        if kind == "gone":
            del self.storage.state[key]
        else:
            self.storage.state[key] = new[kind]
        found = _OBJECT.fullmatch(key)
        assert found is not None
        self.broken.add(int(found[2]))
        self._victims = {commit for commit in self.storage.commits if self._names(commit, found)}

    def _counts(self, found: re.Match[str]) -> bool:
        return any(self._names(commit, found) for commit in self.storage.commits)

    def _names(self, commit: tuple[str, str, int], found: re.Match[str]) -> bool:
        """Whether a commit vouches for an object."""
        teacher, run, slot = commit
        folder, name = found[1].rsplit("/", 1)
        outputs = next(o for spec, o in PASSES.values() if self._pass(spec, o) == (teacher, run))
        mine = folder == "rows" or (folder == f"teachers/{teacher}" and name.removesuffix("_status") in outputs)
        return mine and slot == int(found[2])

    def _pass(self, spec: TeacherSpec, outputs: tuple[str, ...]) -> tuple[str, str]:
        return spec.teacher_id, Pass(outputs, 1, 1, "").pass_id

    @precondition(lambda self: not self.asleep)
    @rule()
    def repair(self) -> None:
        before = set(self.storage.commits)
        repair_store(self.storage)
        assert before - self.storage.commits == (self._victims if self.broken else set())
        self.broken.clear()
        assert not problems_of(self.storage)

    @rule(target=readers)
    def open(self) -> tuple[EmbeddingStore, set[tuple[str, str, int]]]:
        return open_store(self.storage), set(self.storage.commits)

    @rule(reader=readers)
    def read_again(self, reader: tuple[EmbeddingStore, set[tuple[str, str, int]]]) -> None:
        """A store that was opened any time before still says what was committed then."""
        store, known = reader
        if self.broken or not store.teacher_ids:
            return
        for view in views_of(store):
            for teacher, run, slot in known & self.storage.commits:
                if teacher == view.teacher_id:
                    for output in next(o for spec, o in PASSES.values() if self._pass(spec, o) == (teacher, run)):
                        self._check(store, teacher, output, slot)

    @precondition(lambda self: self.storage.commits and not self.broken)
    @rule()
    def copy(self) -> None:
        target = HeldStorage(url="held://copy")
        self._attempt(lambda: copy_store(self.storage, target))
        verify(target)
        copied = {key for key in target.state if _COMMIT.fullmatch(key)}
        assert copied == {key for key in self.storage.state if _COMMIT.fullmatch(key)}
        self._check_all(open_store(target), self.storage.commits)

    @precondition(lambda self: self.storage.commits and not self.broken)
    @rule(labels=st.sets(st.integers(0, len(CLASSES) - 1), min_size=1))
    def subset(self, labels: set[int]) -> None:
        target = HeldStorage(url="held://subset")
        if not self._attempt(
            lambda: subset_store(self.storage, target, Selection(labels=frozenset(labels))), StoreError, HoleError
        ):
            return
        verify(target)
        for view in views_of(open_store(target)):
            for output, slot in product(view.outputs, view.store.slots):
                if view.commit(slot, output) is not None:
                    read = view.read(slot, output)
                    kept = np.isin(read.labels, sorted(labels))
                    assert (read.status[~kept] == RowStatus.DROPPED).all()
                    self._check_rows(view.spec, output, slot, read.rows, kept)

    @precondition(lambda self: self.storage.commits and not self.broken)
    @rule()
    def merge_with_itself(self) -> None:
        target = HeldStorage(url="held://merged")
        merge_stores([self.storage, self.storage], target)
        verify(target)
        self._check_all(open_store(target), self.storage.commits)

    @invariant()
    def what_was_committed_and_nothing_else_can_be_read(self) -> None:
        if self.storage.exists("manifest/0.json"):
            self._check_all(open_store(self.storage), self.storage.commits)

    def _check_all(self, store: EmbeddingStore, commits: set[tuple[str, str, int]]) -> None:
        covered = {(t, o, s) for t, run, s in commits for o in self._outputs(t, run)}
        for view in views_of(store):
            for output, slot in product(view.outputs, store.slots):
                if slot.index in self.broken:
                    continue
                if (view.teacher_id, output, slot.index) in covered:
                    self._check(store, view.teacher_id, output, slot.index)
                else:
                    self._check_hole(store, view.teacher_id, output, slot.index)
        assert {t for t, _, _ in covered} <= set(store.teacher_ids)

    def _outputs(self, teacher: str, run: str) -> tuple[str, ...]:
        return next(outputs for spec, outputs in PASSES.values() if self._pass(spec, outputs) == (teacher, run))

    def _is_committed(self, teacher: str, output: str, slot: int) -> bool:
        return any(t == teacher and s == slot and output in self._outputs(t, run) for t, run, s in self.storage.commits)

    def _check_hole(self, store: EmbeddingStore, teacher: str, output: str, slot: int) -> None:
        try:
            store.teacher(teacher).read(slot, output)
        except HoleError:
            return
        raise AssertionError(f"{output} of slot {slot} was never committed, and can be read")

    def _check(self, store: EmbeddingStore, teacher: str, output: str, index: int) -> None:
        view, slot = store.teacher(teacher), store.slots[index]
        read = view.read(slot, output)
        expected = rows_of(slot, view.spec, (output,))
        np.testing.assert_array_equal(read.keys, expected.keys)
        np.testing.assert_array_equal(read.labels, expected.labels)
        np.testing.assert_array_equal(read.status, expected.status[output])
        self._check_rows(view.spec, output, slot, read.rows, np.ones(slot.rows, np.bool_))

    def _check_rows(
        self, spec: TeacherSpec, output: str, slot: Slot, rows: NDArray[Any], kept: NDArray[np.bool_]
    ) -> None:
        """They are one machine's, all of them."""
        versions = (rows_of(slot, spec, (output,), noise).outputs[output].astype(rows.dtype) for noise in NOISE)
        assert any(np.array_equal(rows[kept], version[kept], equal_nan=True) for version in versions)

    def teardown(self) -> None:
        for one in self.asleep:
            one.die()
