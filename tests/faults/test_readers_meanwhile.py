"""Readers while something is done to a store: they see what is committed and nothing else, and it is always right."""

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from embedkd.errors import EmbedKDError, FormatError, HoleError
from embedkd.storage import Storage
from embedkd.store import EmbeddingStore, open_store
from tests.faults.held import HeldStorage
from tests.faults.interleaving import Hooked
from tests.faults.scenes import SCENES, Scene, bytes_of, check_message, read_everything, views_of
from tests.faults.stage import hold
from tests.faults.storms import Bucket, BucketStorm, LocalStorm, Zygote
from tests.tiny import write_shard

Rows = dict[tuple[str, ...], object]
WRITING = [scene for scene in SCENES if scene.name not in {"repair", "card"} and not scene.only_reads]


def rows_in(store: EmbeddingStore) -> Rows:
    """Every slot of every output that is committed; what is a hole may be committed a moment later.

    Raises:
        EmbedKDError: One that is committed cannot be read.
    """
    found: Rows = {}
    for view in views_of(store):
        for output in view.outputs:
            holes = {slot.index for slot in view.holes(output)}
            for slot in store.slots:
                try:
                    found[view.teacher_id, output, str(slot.index)] = bytes_of(view, slot.index, output)
                except HoleError:
                    assert slot.index in holes
    return found


def is_a_store(storage: Storage) -> bool:
    """Whether a store was created there to its end."""
    return storage.exists("manifest/0.json")


class Reader:
    """Reads again and again what others write.

    Args:
        storage: Of the store.
        right: What may be read.
    """

    def __init__(self, storage: Storage, right: Mapping[tuple[str, ...], object]) -> None:
        self._storage = storage
        self._right = right
        self._last = 0
        self.looks = 0

    def look(self) -> None:
        """Open the store and read everything that is committed; there is never less than before.

        Raises:
            EmbedKDError: Something of it cannot be read.
        """
        created = is_a_store(self._storage)
        try:
            store = open_store(self._storage)
        except FormatError:
            assert not created
            return
        found = rows_in(store)
        assert {key: self._right.get(key) for key in found} == found
        assert len(found) >= self._last
        self._last = len(found)
        self.looks += 1


@pytest.mark.parametrize("scene", WRITING, ids=str)
def test_between_any_two_operations_readers_see_what_is_committed(scene: Scene) -> None:
    """New readers, and one that opened the store before anything began."""
    storages = hold(scene.before())
    scene.act(storages)
    right = {name: read_everything(storage) for name, storage in storages.items()}
    storages = hold(scene.before())
    readers = {name: Reader(storage, right[name]) for name, storage in storages.items()}
    old = {name: open_store(storage) for name, storage in storages.items() if is_a_store(storage)}
    before = {name: rows_in(store) for name, store in old.items()}

    def hook(verb: str, _key: str) -> None:
        if verb in {"put", "replace"}:
            for reader in readers.values():
                reader.look()
            for name, store in old.items():
                found = rows_in(store)
                assert {key: found[key] for key in before[name]} == before[name]

    scene.act({name: Hooked(storage, hook) for name, storage in storages.items()})
    assert max(reader.looks for reader in readers.values()) > 3


def test_between_any_two_operations_of_a_repair_no_row_is_wrong() -> None:
    (scene,) = (scene for scene in SCENES if scene.name == "repair")
    storage = HeldStorage(scene.before()["store"])
    whole = next(one for one in SCENES if one.name == "verify").before()["store"]
    right = read_everything(HeldStorage(whole))
    looks = [0]

    def look(_verb: str, _key: str) -> None:
        for view in views_of(open_store(storage)):
            for output in view.outputs:
                for slot in view.store.slots:
                    try:
                        found = bytes_of(view, slot.index, output)
                    except EmbedKDError as error:
                        check_message(error)
                    else:
                        assert found == right[view.teacher_id, output, str(slot.index)]
                        looks[0] += 1

    scene.act({"store": Hooked(storage, look)})
    assert looks[0] > 100


class Meanwhile:
    """Looks again and again in a thread of its own, until it is left."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._reader.look()
        except BaseException as error:
            self._error = error

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


def test_readers_beside_processes_that_write(
    zygote: Zygote, tmp_path: Path, storm_bucket: Bucket, thorough: bool
) -> None:
    """Two writers at once, to a disk and to a bucket; rows are compared with those of an undisturbed store."""
    for name, rows in {"train-0.tar": 5, "train-1.tar": 2, "train-2.tar": 4, "val-0.tar": 3}.items():
        write_shard(tmp_path / "data" / name, rows)
    storms = (
        (LocalStorm(zygote, tmp_path / "data", tmp_path), 3),
        (BucketStorm(zygote, tmp_path / "data", storm_bucket), 1),
    )
    for storm, turns in storms:
        right, looks = rows_in(open_store(storm.storage("whole"))), 0
        for turn in range(turns * (10 if thorough else 1)):
            reader = Reader(storm.storage(f"{turn}"), right)
            with Meanwhile(reader):
                storm.race(f"{turn}", 2)
            reader.look()
            looks += reader.looks
        assert looks >= turns
