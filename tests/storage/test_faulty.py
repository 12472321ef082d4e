"""The storage that fails on purpose does so where it was told to, and only there."""

import pytest

from embedkd.errors import StorageError
from embedkd.storage import Storage, open_storage
from tests.storage.contract import LONG
from tests.storage.faulty import Fault, FaultyStorage, seeded


@pytest.fixture
def inner(memory_url: str) -> Storage:
    storage = open_storage(memory_url)
    storage.put_new("a", LONG)
    return storage


@pytest.mark.parametrize("fault", list(Fault))
def test_a_put_that_fails(inner: Storage, fault: Fault) -> None:
    storage = FaultyStorage(inner, {1: fault})
    storage.put_new("b", b"x")
    with pytest.raises(StorageError, match=f"cannot write {inner.url}/c: "):
        storage.put_new("c", b"x")
    assert inner.exists("c") == (fault is Fault.AFTER)
    storage.put_new("d", b"x")
    assert storage.operations == [("write", "b"), ("write", "c"), ("write", "d")]


@pytest.mark.parametrize("fault", list(Fault))
def test_a_read_that_fails(inner: Storage, fault: Fault) -> None:
    for call in (lambda s: s.get("a"), lambda s: s.get_range("a", 0, 1 << 20), lambda s: b"".join(s.stream("a"))):
        storage = FaultyStorage(inner, {0: fault})
        if fault is Fault.PARTIAL:
            assert call(storage) == LONG[: len(LONG) // 2], "nobody says that half is missing"
        else:
            with pytest.raises(StorageError, match=f"cannot read {inner.url}/a: "):
                call(storage)
        assert call(storage) == LONG


def test_what_else_fails(inner: Storage) -> None:
    storage = FaultyStorage(inner, dict.fromkeys(range(4), Fault.UNAVAILABLE))
    for call in (storage.exists, storage.size, storage.list_names, storage.remove):
        with pytest.raises(StorageError, match="the server answered 503"):
            call("a")
    assert storage.exists("a")
    assert storage.size("a") == len(LONG)
    assert storage.list_names("") == ["a"]


def test_the_seed_decides() -> None:
    faults = seeded(7, 1000, 0.25)
    assert faults == seeded(7, 1000, 0.25) != seeded(8, 1000, 0.25)
    assert 180 < len(faults) < 320
    assert set(faults.values()) == set(Fault)
    assert seeded(7, 100, 0.0) == {}
    assert len(seeded(7, 100, 1.0)) == 100
