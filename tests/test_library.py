"""Stores as a library: without torch, from threads, behind forks, and as docs/library.md says."""

import doctest
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedkd
from embedkd.errors import ConfigError, HoleError, IntegrityError, StoreError, UnknownNameError
from embedkd.records import key_hash
from embedkd.store import EmbeddingStore, Lookup, SlotRead, open_store
from embedkd.store.ahead import read_ahead
from embedkd.store.lookup import hashes_of, look_up

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def store(example_store: Path) -> EmbeddingStore:
    return open_store(example_store / "store.zarr")


@pytest.fixture
def copy(example_store: Path, tmp_path: Path) -> Path:
    shutil.copytree(example_store / "store.zarr", tmp_path / "store.zarr")
    return tmp_path / "store.zarr"


def _in_a_fork(act: Callable[[], None]) -> None:
    """Run something in a forked child that has ten seconds for it."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "256: it failed; 14: it hung"


def _same(first: SlotRead, second: SlotRead) -> bool:
    return all(
        getattr(first, part).tobytes() == getattr(second, part).tobytes()
        for part in ("rows", "status", "keys", "labels", "places")
    )


def test_the_page_says_what_happens(example_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DOCS / "library.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    monkeypatch.chdir(example_store)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_ONLY_FIRST_FAILURE)
    result = runner.run(doctest.DocTestParser().get_doctest(code, {}, "library.md", None, 0), out=said.append)
    assert result.failed == 0, "".join(said)
    assert result.attempted >= 10


def test_the_readme_says_what_works(example_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(import embedkd\n.*?)```", (DOCS.parent / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(example_store)
    found: dict[str, Any] = {}
    exec(code.replace('"pooled"', '"cls"'), found)
    assert found["means"].shape == (3, 6)
    assert found["rows"].shape == (2, 6)


_WITHOUT_TORCH = """
import sys
import embedkd
assert not {"numpy", "embedkd.store", "embedkd.errors"} & set(sys.modules), "importing the package costs nothing"
store = embedkd.open_store(sys.argv[1])
assert len(list(store.iterate("cls"))) == 4 and store.read(0, "logits").rows.shape == (8, 4)
assert store.take(store.lookup(["cat_05"]), "cls").shape == (1, 6)
assert store.classes(output="cls").mean.shape == (3, 6) and list(store.teachers) and list(store.outputs)
heavy = "torch torchvision transformers open_clip timm webdataset zarr obstore sklearn matplotlib typer PIL tests"
found = sorted(set(heavy.split()) & set(sys.modules))
assert not found, found
"""


def test_a_store_is_used_without_torch_and_teachers(example_store: Path) -> None:
    subprocess.run([sys.executable, "-c", _WITHOUT_TORCH, str(example_store / "store.zarr")], check=True)


def test_the_package_shows_its_public_names() -> None:
    assert embedkd.open_store is open_store
    assert set(embedkd.__all__) <= set(dir(embedkd))
    assert {name for name in embedkd.__all__ if not name.startswith("__")} == set(embedkd._HOMES)
    with pytest.raises(AttributeError, match="module 'embedkd' has no attribute 'open_stores'"):
        embedkd.open_stores  # noqa: B018


def test_what_is_shown_costs_no_reading(store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(store.storage), "get", None)
    assert repr(store) == f"EmbeddingStore('{store.storage.url}': 24 samples in 4 slots, 3 classes)"


def test_slots_come_in_order_and_as_read_gives_them(store: EmbeddingStore) -> None:
    found = list(store.iterate("cls"))
    assert [slot for slot, _ in found] == list(store.slots)
    for slot, read in found:
        assert _same(read, store.read(slot, "cls"))
        assert _same(read, store.read(slot.index, "cls"))
    for split, urls in {"val": ["val-000000.tar"], "test": []}.items():
        assert [slot.shard.url for slot, _ in store.iterate("cls", split=split)] == urls  # type: ignore[arg-type]


def test_a_hole_raises_in_its_turn_or_is_passed_over(copy: Path) -> None:
    next(copy.glob("teachers/*/pass-*/commits/1.json")).unlink()
    store = open_store(copy)
    slots = store.iterate("cls")
    assert next(slots)[0].index == 0, "what was read ahead in vain hurts only when its turn comes"
    with pytest.raises(HoleError, match=r"slot 1 \(train-000000.tar\) of .* has no cls"):
        next(slots)
    assert [slot.index for slot, _ in store.iterate("cls", allow_partial=True)] == [0, 2, 3]
    with pytest.raises(HoleError, match=r"slot 1 \(train-000000.tar\) of .* has no keys yet"):
        store.lookup(["ant_21"])
    where = store.lookup(["ant_21", "bee_10"], allow_partial=True)
    assert where.found.tolist() == [True, False]


def test_wrong_names_raise_at_once(store: EmbeddingStore) -> None:
    calls: list[Callable[[str], Any]] = [
        lambda name: store.read(0, name),
        lambda name: store.iterate(name),
        lambda name: store.take(store.lookup(["cat_05"]), name),
        lambda name: store.classes(output=name),
    ]
    for call in calls:
        with pytest.raises(UnknownNameError, match=r"unknown output of vit:Small .*did you mean cls"):
            call("clss")
    for number in (4, -1):
        with pytest.raises(HoleError, match="has slots 0 to 3"):
            store.read(number, "cls")
    with pytest.raises(UnknownNameError, match="unknown teacher"):
        store.read(0, "cls", teacher="clip")


def test_rows_are_found_by_key(store: EmbeddingStore) -> None:
    reads = dict(store.iterate("cls"))
    keys = ["cat_05", "ant_21", "cat_05", "bee_10", "bee_04"]
    where = store.lookup(keys)
    assert where.count.tolist() == [1] * 5
    rows = store.take(where, "cls")
    assert rows.dtype == np.float16
    for at, key in enumerate(keys):
        read = reads[store.slots[where.slot[at]]]
        assert int(read.keys[where.row[at]]) == key_hash(key)
        assert rows[at].tobytes() == read.rows[where.row[at]].tobytes()
    assert np.isnan(rows[4]).all(), "the teacher could not see it"
    assert np.isfinite(rows[:4]).all()
    np.testing.assert_array_equal(store.take(store.lookup(where.keys), "cls"), rows, "hashes are as good as keys")
    assert store.take(where, "logits").shape == (5, 4), "one lookup serves all outputs"


def test_missing_keys_are_marked_and_never_taken_by_mistake(store: EmbeddingStore) -> None:
    where = store.lookup(["dog_00", "cat_05", "dog_01"])
    assert where.found.tolist() == [False, True, False]
    assert (where.slot.tolist(), where.row.tolist()) == ([-1, 0, -1], [-1, 5, -1])
    with pytest.raises(HoleError, match="lacks 2 of these 3 keys, the first is number 0"):
        store.take(where, "cls")
    rows = store.take(where, "cls", allow_missing=True)
    assert np.isfinite(rows).all(axis=1).tolist() == [False, True, False]
    for none in (store.lookup([]), store.lookup(np.zeros(0, np.uint64))):
        assert len(none) == 0
        rows = store.take(none, "cls")
        assert rows.shape == (0, 6)
        assert rows.dtype == np.float16


def test_places_of_another_store_are_refused(store: EmbeddingStore) -> None:
    where = store.lookup(["cat_05"])
    others = (
        Lookup(where.keys, where.slot, where.row + 1, where.count),
        Lookup(where.keys, where.slot, where.row + 100, where.count),
        Lookup(where.keys + np.uint64(1), where.slot, where.row, where.count),
    )
    for other in others:
        with pytest.raises(StoreError, match="looked up in another store"):
            store.take(other, "cls")


@pytest.mark.parametrize("keys", ["cat_05", [1, 2], [b"cat_05"], np.array([1, 2]), np.zeros((1, 1), np.uint64), [None]])
def test_what_are_no_keys(store: EmbeddingStore, keys: Any) -> None:
    with pytest.raises(TypeError, match=r"^expected "):
        store.lookup(keys)


def test_keys_may_come_in_any_container() -> None:
    expected = [key_hash("a"), key_hash("b")]
    for keys in (["a", "b"], ("a", "b"), iter(["a", "b"]), {"a": 0, "b": 1}, np.array(["a", "b"])):
        assert hashes_of(keys).tolist() == expected


class _Keys:
    """A store and a teacher that know nothing but keys; counts how many slots' keys are alive."""

    def __init__(self, slots: Sequence[Sequence[int]]) -> None:
        self.given = slots
        self.slots = [SimpleNamespace(index=i, shard=SimpleNamespace(url="x.tar")) for i in range(len(slots))]
        self.outputs = ("cls",)
        self.refs: list[weakref.ref[Any]] = []
        self.most = 0

    def commit(self, slot: Any, output: str) -> object:
        return object()

    def read_keys(self, slot: Any, output: str) -> Any:
        class Kept(np.ndarray[Any, Any]):
            """Arrays of this class can be watched."""

        keys = np.array(self.given[slot.index], np.uint64).view(Kept)
        self.refs.append(weakref.ref(keys))
        self.most = max(self.most, sum(ref() is not None for ref in self.refs))
        return keys


SMALL = st.integers(0, 12)


@given(st.lists(st.lists(SMALL, max_size=6), max_size=5), st.lists(SMALL, max_size=10))
def test_lookup_is_that_of_a_plain_loop(slots: list[list[int]], asked: list[int]) -> None:
    """With keys that repeat, in the store and in the question."""
    places: dict[int, list[tuple[int, int]]] = {}
    for slot, keys in enumerate(slots):
        for row, key in enumerate(keys):
            places.setdefault(key, []).append((slot, row))
    fake: Any = _Keys(slots)
    found = look_up(fake, [fake], np.array(asked, np.uint64), allow_partial=False)
    for at, key in enumerate(asked):
        hits = places.get(key, [])
        assert (found.slot[at], found.row[at]) == (hits[0] if hits else (-1, -1))
        assert found.count[at] == len(hits)


def test_the_memory_of_a_lookup_does_not_grow_with_the_store() -> None:
    fake: Any = _Keys([[i] for i in range(200)])
    assert look_up(fake, [fake], np.arange(200, dtype=np.uint64), allow_partial=False).found.all()
    assert fake.most <= 8


def test_keys_are_checked_against_the_commit(copy: Path) -> None:
    chunk = copy / "rows" / "key" / "c" / "2"
    data = bytearray(chunk.read_bytes())
    data[20] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"rows/key.* crc32c .*commits/2\.json"):
        open_store(copy).lookup(["ant_00"])


def test_several_teachers_and_class_sets_are_chosen_by_name(whole: Path) -> None:
    store = open_store(whole)
    other, small = store.teacher_ids
    assert {name: spec.name for name, spec in store.teachers.items()} == {other: "vit:Other", small: "vit:Small"}
    calls: list[Callable[[], Any]] = [
        lambda: store.outputs,
        lambda: store.read(0, "cls"),
        lambda: store.iterate("cls"),
        store.classes,
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=rf"has 2 teachers; name one with .* teacher=: {other}, {small}"):
            call()
    first, second = (store.read(0, "cls", teacher=name).rows.tobytes() for name in ("vit:Small", other))
    assert first != second
    assert store.classes(teacher="vit:Other").mean.shape == (3, 6), "cls is the only output with class sets"
    with pytest.raises(ConfigError, match="has class sets of cls, pooled; name one with output="):
        store.classes(teacher=small)
    with pytest.raises(HoleError, match="has no class set of logits"):
        store.classes(teacher=small, output="logits")
    assert store.lookup(["train-0.tar/3"]).found.all(), "keys belong to the slot, not to a teacher"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Two teachers, several passes and class sets."""
    from tests.store.conftest import Kit

    Kit().whole(tmp_path / "whole.zarr")
    return tmp_path / "whole.zarr"


def test_threads_share_a_store(example_store: Path) -> None:
    """All begin at once on a store that nobody has used, and get what one gets alone."""
    alone = open_store(example_store / "store.zarr")
    keys = ["cat_05", "ant_21", "nobody"]

    def answers(store: EmbeddingStore) -> list[bytes]:
        where = store.lookup(keys)
        reads = [read for output in ("cls", "logits") for _, read in store.iterate(output)]
        return [
            *(part.tobytes() for part in (where.slot, where.row, where.count)),
            *(read.rows.tobytes() + read.status.tobytes() for read in reads),
            store.take(where, "cls", allow_missing=True).tobytes(),
            store.classes(output="cls").mean.tobytes(),
            repr(list(store.teachers)).encode(),
        ]

    expected, threads = answers(alone), 8
    for _ in range(3):
        shared, barrier = open_store(example_store / "store.zarr"), threading.Barrier(threads)

        def run(store: EmbeddingStore = shared, start: threading.Barrier = barrier) -> list[list[bytes]]:
            start.wait()
            return [answers(store) for _ in range(3)]

        with ThreadPoolExecutor(threads) as pool:
            found = [future.result(60) for future in [pool.submit(run) for _ in range(threads)]]
        assert all(answer == expected for answered in found for answer in answered)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_store_in_a_folder_is_used_behind_a_fork(store: EmbeddingStore) -> None:
    """Also in the middle of a walk, whose reading thread stays behind."""
    expected = [read for _, read in store.iterate("cls")]
    walk = store.iterate("cls")
    next(walk)

    def act() -> None:
        assert store.lookup(["cat_05"]).slot.tolist() == [0]
        assert all(_same(read, known) for (_, read), known in zip(store.iterate("cls"), expected, strict=True))
        assert all(_same(read, known) for (_, read), known in zip(walk, expected[1:], strict=True))

    _in_a_fork(act)
    assert all(_same(read, known) for (_, read), known in zip(walk, expected[1:], strict=True)), "and here it goes on"


def _answers(store: EmbeddingStore) -> tuple[bytes, int, str]:
    return store.read(0, "cls").rows.tobytes(), int(store.lookup(["ant_21"]).slot[0]), repr(store)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_store_travels_to_other_processes(store: EmbeddingStore, method: str) -> None:
    expected = _answers(store)
    assert _answers(pickle.loads(pickle.dumps(store))) == expected
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert pool.submit(_answers, store).result(60) == expected


def test_a_pickle_holds_nothing_that_was_read(store: EmbeddingStore) -> None:
    before = len(pickle.dumps(store))
    _answers(store)
    assert len(pickle.dumps(store)) == before


def test_reading_ahead_is_one_ahead_and_ends_with_its_reader() -> None:
    begun: list[int] = []

    def read(n: int) -> int:
        begun.append(n)
        return n

    ahead = read_ahead(read, range(10))
    assert next(ahead) == 0
    assert [next(ahead), next(ahead)] == [1, 2]
    ahead.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name.startswith("embedkd-read"):
            thread.join(10)
            assert not thread.is_alive()
    assert begun in ([0, 1, 2], [0, 1, 2, 3]), "no more than one was read in vain"


def test_reading_ahead_raises_in_order() -> None:
    def read(n: int) -> int:
        if n == 2:
            raise HoleError("two")
        return n

    ahead = read_ahead(read, range(5), depth=3)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(HoleError, match="two"):
        next(ahead)
