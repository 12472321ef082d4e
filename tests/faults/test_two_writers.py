"""Several writers of one slot: one commit, whoever is first, whoever stalls, and nothing that was committed changes."""

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import pytest

from embedkd.errors import ConflictError, EmbedKDError
from embedkd.storage import LocalStorage, Storage, open_storage
from embedkd.store import Commit, Pass, PassWriter, open_store
from tests.faults.held import HeldStorage, State
from tests.faults.interleaving import Counting, Hooked, before_write
from tests.faults.scenes import ONE, SCENES, SMALL, Scene, check_message, create, fill, read_everything, verify, whole
from tests.faults.stage import Stage, hold
from tests.faults.storms import Bucket, BucketStorm, LocalStorm, Zygote, state_of
from tests.storage.proxy import Breakage, Proxy
from tests.storage.servers import QUICK
from tests.store.samples import rows_of
from tests.tiny import write_shard

NEAR = 1e-5  # as another machine computes the same rows
OUTPUTS = ("cls", "pooled")
Places = Callable[[], Storage]


def write(storage: Storage, noise: float = 0.0, name: str = "a writer") -> Commit:
    """One slot, from opening the store to its commit."""
    store = open_store(storage)
    writer = PassWriter(store, ONE, Pass(OUTPUTS, 8, 1, "a processor"))
    slot = store.slots[0]
    return writer.write(slot, rows_of(slot, ONE, OUTPUTS, noise), {"id": name})


def check_rows(storage: Storage) -> None:
    """The slot is committed, and each output is one writer's, whole; the other slots are holes."""
    verify(storage)
    view = open_store(storage).teacher()
    for output in OUTPUTS:
        assert view.holes(output) == view.store.slots[1:]
        versions = {rows_bytes(HeldStorage(made(noise)), output) for noise in (0.0, NEAR)}
        assert rows_bytes(storage, output) in versions


def rows_bytes(storage: Storage, output: str) -> bytes:
    rows: bytes = open_store(storage).teacher().read(0, output).rows.tobytes()
    return rows


@lru_cache
def made(noise: float) -> State:
    storage = HeldStorage()
    create(storage, SMALL)
    write(storage, noise)
    return storage.state


@pytest.fixture(params=["held", "disk", "bucket"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    """Makes empty places."""
    if request.param == "held":
        return HeldStorage
    if request.param == "disk":
        return lambda: LocalStorage(tmp_path / uuid.uuid4().hex)
    name = request.getfixturevalue("bucket")
    return lambda: open_storage(f"s3://{name}/{uuid.uuid4().hex}", limits=QUICK)


@pytest.fixture(params=["held", "disk"])
def near_places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    """The same, without a network: that has a test of its own."""
    return HeldStorage if request.param == "held" else lambda: LocalStorage(tmp_path / uuid.uuid4().hex)


def test_threads_that_write_one_slot_at_once_make_one_commit(places: Places, thorough: bool) -> None:
    for _ in range(100 if thorough else 5):
        created: Counter[str] = Counter()
        storage, start = places(), threading.Barrier(3)
        create(storage, SMALL)

        def run(number: int, counting: Counting, start: threading.Barrier = start) -> Commit:
            start.wait()
            return write(counting, NEAR * (number % 2), f"writer {number}")

        with ThreadPoolExecutor(3) as pool:
            commits = list(pool.map(run, range(3), [Counting(storage, created)] * 3))
        assert commits[0] == commits[1] == commits[2], "all of them say which commit stands"
        assert set(created.values()) == {1}
        assert sum("/commits/" in key for key in created) == 1
        check_rows(storage)


def test_processes_that_compute_one_store_at_once(
    zygote: Zygote, tmp_path: Path, storm_bucket: Bucket, thorough: bool
) -> None:
    for name, rows in {"train-0.tar": 5, "val-0.tar": 3}.items():
        write_shard(tmp_path / "data" / name, rows)
    disk = LocalStorm(zygote, tmp_path / "data", tmp_path)
    for turn in range(30 if thorough else 3):
        disk.race(f"{turn}", 3)
        disk.complete(f"{turn}")
    network = BucketStorm(zygote, tmp_path / "data", storm_bucket)
    for turn in range(10 if thorough else 1):
        network.race(f"{turn}", 2)
        network.complete(f"{turn}")


@pytest.fixture(scope="module")
def puts() -> range:
    """Numbers of the puts of `write` that are of the slot: its objects, then its commit."""
    keys: list[str] = []
    storage = HeldStorage()
    create(storage, SMALL)
    commit = write(Hooked(storage, lambda verb, key: keys.append(key) if verb == "put" else None))
    first = len(keys) - len(commit.objects) - 1
    assert keys[first] == commit.objects[0].key
    return range(first, len(keys))


@pytest.mark.parametrize("noise", [0.0, NEAR])
def test_a_writer_that_stalls_before_any_put_and_wakes_up_changes_nothing(
    near_places: Places, noise: float, puts: range
) -> None:
    for number in range(puts.stop):
        storage = near_places()
        create(storage, SMALL)
        after: State = {}

        def other(storage: Storage = storage, after: State = after) -> None:
            write(storage, noise, "the other")
            after.update(state_of(storage))

        commit = write(Hooked(storage, before_write(number, other)), 0.0, "the stalled one")
        assert commit.attempt["id"] == "the other"
        assert state_of(storage) == after
        check_rows(storage)


def test_a_put_that_was_on_its_way_while_another_committed_changes_nothing(
    bucket: str, proxy: Proxy, puts: range
) -> None:
    """The proxy holds the request itself; the other writer does not wait for it."""
    for number in puts:
        url = f"s3://{bucket}/{number}"
        stalled, other = (open_storage(url, limits=QUICK) for _ in range(2))
        create(stalled, SMALL)
        proxy.released.clear()
        proxy.breaks(*[Breakage.NONE] * number, Breakage.HOLD, method="PUT")
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(write, stalled, 0.0, "the stalled one")
            while proxy.requests[-1][2] is not Breakage.HOLD:
                time.sleep(0.001)
            write(other, NEAR, "the other")
            after = state_of(other)
            proxy.released.set()
            assert late.result(60).attempt["id"] == "the other"
        assert state_of(other) == after
    check_rows(other)


def test_a_stalled_writer_of_other_rows_is_told_and_changes_nothing(near_places: Places, puts: range) -> None:
    """Of two that disagree one commits, and the other one says so."""
    for number in puts:
        storage = near_places()
        create(storage, SMALL)
        after: State = {}
        told: list[str] = []

        def other(storage: Storage = storage, after: State = after, told: list[str] = told) -> None:
            try:
                write(storage, 1.0)
            except ConflictError:
                told.append("the other")
            after.update(state_of(storage))

        try:
            write(Hooked(storage, before_write(number, other)))
        except ConflictError:
            told.append("the stalled one")
        assert len(told) == 1
        there = state_of(storage)
        assert {key: there[key] for key in after} == after
        assert any("/commits/" in key for key in there)
        verify(storage)


TAKING_AWAY = ("repair",)
STALLING = [scene for scene in SCENES if scene.name not in TAKING_AWAY and not scene.only_reads]


@pytest.mark.parametrize("scene", STALLING, ids=str)
def test_whatever_stalls_while_another_does_the_same_ends_the_same(scene: Scene, thorough: bool) -> None:
    """Or it says in a line that somebody else was there; and then the same command finds all done."""
    stage = Stage(scene)
    for number in itertools.count(0, 1 if thorough else 3):
        storages = hold(stage.before)
        happened: list[bool] = []

        def other(storages: dict[str, HeldStorage] = storages, happened: list[bool] = happened) -> None:
            happened.append(stage.play(storages, {}))

        hook = before_write(number, other)
        try:
            scene.act({name: Hooked(storage, hook) for name, storage in storages.items()})
        except EmbedKDError as error:
            check_message(error)
        if not happened:
            break
        assert happened == [True]
        assert stage.mend(storages)


def test_a_stalled_repair_can_take_away_what_was_made_meanwhile_but_never_make_it_wrong() -> None:
    """It is the one operation that removes, and is for stores that nobody writes to; what it leaves is found."""
    (scene,) = (scene for scene in SCENES if scene.name == "repair")
    before = scene.before()["store"]
    right = read_everything(HeldStorage(whole(SMALL, sealed=True)))
    for number in itertools.count():
        storage = HeldStorage(before)
        happened: list[bool] = []

        def other(storage: HeldStorage = storage, happened: list[bool] = happened) -> None:
            scene.act({"store": storage})
            fill(open_store(storage))
            happened.append(True)

        scene.act({"store": Hooked(storage, before_write(number, other))})
        if not happened:
            break
        scene.act({"store": storage})
        fill(open_store(storage))
        found = read_everything(storage)
        assert {key: data for key, data in right.items() if key in found} == found
        verify(storage)
