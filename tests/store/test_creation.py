"""Creating stores: once, whole, and never on top of something else."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedkd.errors import FormatError, StorageError, StoreError
from embedkd.records import DecodePolicy, Shard
from embedkd.storage import LocalStorage
from embedkd.store import create_store, is_created, open_store, remembered_root

SHARDS = (Shard("train-0.tar", "train", 100, 70, "a" * 64), Shard("val-0.tar", "val", 100, 5, "b" * 64))
POLICY = DecodePolicy(background=(1, 2, 3), exif=False, max_pixels=1000)
Create = Callable[..., Any]


def _create(folder: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {"shards": SHARDS, "root": "../data", "classes": ("a", "b"), "policy": POLICY}
    settings |= changes
    return create_store(LocalStorage(folder), settings.pop("shards"), **settings)


def test_a_new_store_says_what_it_was_made_of(tmp_path: Path) -> None:
    assert not is_created(LocalStorage(tmp_path / "s"))
    _create(tmp_path / "s")
    assert is_created(LocalStorage(tmp_path / "s"))
    store = open_store(tmp_path / "s")
    assert store.shards == SHARDS
    assert store.class_names == ("a", "b")
    assert store.policy == POLICY
    assert store.capacity == 128
    assert store.data_root == str(tmp_path / "data")
    assert store.teacher_ids == ()


def test_creating_it_again_changes_nothing(tmp_path: Path) -> None:
    first = _create(tmp_path / "s")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert _create(tmp_path / "s").uuid == first.uuid
    assert _create(tmp_path / "s", capacity=128).uuid == first.uuid
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shards": SHARDS[:1]}, "made from 2 shards, these are 1"),
        ({"shards": SHARDS[::-1]}, "made from other shards"),
        ({"shards": (SHARDS[0], Shard("val-0.tar", "val", 100, 5, "c" * 64))}, "val-0.tar is not its val-0.tar"),
        ({"shards": (SHARDS[0], Shard("val-0.tar", "test", 100, 5, "b" * 64))}, "made from other shards"),
        ({"shards": (SHARDS[0], Shard("val-0.tar", "val", 100, 6, "b" * 64))}, "made from other shards"),
        ({"classes": ("b", "a")}, "other class names"),
        ({"classes": None}, "other class names"),
        ({"policy": DecodePolicy()}, "another decode policy"),
        ({"capacity": 256}, "128 rows a slot, not 256"),
    ],
)
def test_a_store_of_something_else_is_not_taken(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    _create(tmp_path / "s")
    with pytest.raises(StoreError, match=f"{says}.*use another --out"):
        _create(tmp_path / "s", **changes)


@pytest.mark.parametrize("last", ["zarr.json", "manifest/zarr.json"])
def test_an_interrupted_creation_goes_on_with_what_is_there(tmp_path: Path, last: str) -> None:
    """The first process chose the id and the capacity; the second must not make a manifest that does not fit them."""
    store = _create(tmp_path / "s", capacity=32)
    (tmp_path / "s/manifest/0.json").unlink()
    if last == "zarr.json":
        (tmp_path / "s/manifest/zarr.json").unlink()
    with pytest.raises(FormatError, match="creation was interrupted"):
        open_store(tmp_path / "s")
    again = _create(tmp_path / "s")
    assert (again.uuid, again.capacity) == (store.uuid, 32)
    assert [slot.rows for slot in again.slots] == [32, 32, 6, 5]


@pytest.mark.parametrize(
    "changes",
    [
        {"root": "/absolute"},
        {"capacity": 100},
        {"shards": ()},
        {"shards": (Shard("x.tar", "train", 1, 1, "no digest"),)},
        {"policy": DecodePolicy(max_pixels=1 << 40)},
        {"policy": DecodePolicy(background=(0, 0, 256))},
    ],
)
def test_what_no_reader_would_take_is_refused_before_a_byte_is_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        _create(tmp_path / "s", **changes)
    assert not (tmp_path / "s").exists()


def test_another_kind_of_zarr_group_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_bytes(b'{"attributes":{},"node_type":"group","zarr_format":3}')
    with pytest.raises(FormatError, match="expected an embedding store"):
        _create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["zarr.json"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file")
    with pytest.raises(StorageError, match="s is a file"):
        _create(tmp_path / "s")


def test_many_at_once_make_one_store(tmp_path: Path) -> None:
    identities: list[str] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        identities.append(_create(tmp_path / "s").uuid)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(identities) == 8
    assert set(identities) == {open_store(tmp_path / "s").uuid}


def test_remembered_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data:x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data:x")
    monkeypatch.chdir(tmp_path)
    assert remembered_root("data:clipart", "s.zarr") == "data:clipart"
    assert remembered_root("data", "s.zarr") == "../data"
    assert remembered_root("link", "s.zarr") == "../data:x"
    assert remembered_root(str(tmp_path / "a:b"), str(tmp_path / "deep/s.zarr")) == "../../a:b"
    assert remembered_root("s3://b/data", "s3://b/s.zarr") == "../data"
    assert remembered_root(str(tmp_path), "s3://b/s.zarr") == "data:elsewhere"
