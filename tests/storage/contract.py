"""What every storage must do. A test class inherits one of these and gives its fixture ``holding``."""

import copy
import pickle
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from embedkd.errors import ObjectExistsError, ObjectMissingError, StorageError
from embedkd.storage import Storage

Holding = Callable[[Mapping[str, bytes]], Storage]
LONG = bytes(range(256)) * 2048  # several chunks of any reader
ODD_NAMES = ("a b", "x@-1", "a%20b", "t~l", "#h", "é", "a+b", "q?x", "s*t", "[b]", "a{b", ".x", "a..b", "a=b&c")
KEYS_THAT_LEAVE = (
    "",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "a\\b",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "\ud800",
    ".",
)


class ReadingContract:
    @pytest.fixture
    def holding(self) -> Holding:
        """Makes a storage that holds these objects."""
        raise NotImplementedError

    @pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 1000, LONG], ids=["empty", "one", "short", "long"])
    def test_what_is_there_is_read(self, holding: Holding, data: bytes) -> None:
        storage = holding({"a/b.json": data})
        assert storage.exists("a/b.json")
        assert storage.size("a/b.json") == len(data)
        assert storage.get("a/b.json") == data
        assert b"".join(storage.stream("a/b.json")) == data

    def test_keys_that_name_one_object(self, holding: Holding) -> None:
        storage = holding({"a/b": b"x"})
        assert [storage.get(key) for key in ("a/b", "a//b", "./a/b", "a/./b", "a/b/")] == [b"x"] * 5

    def test_a_read_is_bounded(self, holding: Holding) -> None:
        storage = holding({"a": LONG, "empty": b""})
        for limit in (0, 10, len(LONG) - 1, len(LONG), len(LONG) + 1):
            assert storage.get("a", limit_bytes=limit) == LONG[: limit + 1], "one more, to see that it is too long"
            assert storage.get("empty", limit_bytes=limit) == b""

    def test_a_range_is_read(self, holding: Holding) -> None:
        storage = holding({"a": LONG, "empty": b""})
        for start in (0, 1, 200_000, len(LONG) - 1, len(LONG), len(LONG) + 5):
            for length in (1, 7, 300_000, len(LONG) * 2):
                assert storage.get_range("a", start, length) == LONG[start : start + length]
            assert storage.get_range("empty", start, 3) == b""
        for start, length in ((-1, 3), (0, 0), (3, -1)):
            with pytest.raises(ValueError, match="expected a start of at least 0 and a length of at least 1"):
                storage.get_range("a", start, length)

    def test_a_stream_begins_anywhere(self, holding: Holding) -> None:
        storage = holding({"a": LONG})
        for start in (0, 1, 300_001, len(LONG) - 1, len(LONG), len(LONG) + 1):
            assert b"".join(storage.stream("a", start)) == LONG[start:]
        first = next(iter(storage.stream("a")))
        assert first
        assert LONG.startswith(first)
        assert storage.get("a") == LONG, "a stream that nobody finishes is no harm"

    def test_what_is_missing_is_named(self, holding: Holding) -> None:
        storage = holding({"a": b""})
        for call in (
            storage.get,
            storage.size,
            lambda k: storage.get_range(k, 0, 1),
            lambda k: list(storage.stream(k)),
        ):
            for key in ("b", "b/c.json"):
                with pytest.raises(ObjectMissingError, match=f"{storage.url} has no object {key}$"):
                    call(key)
        assert not storage.exists("b")

    @pytest.mark.parametrize("key", KEYS_THAT_LEAVE)
    def test_keys_that_leave_the_root(self, holding: Holding, key: str) -> None:
        storage = holding({"etc/passwd": b"", "x": b""})
        calls: list[Callable[[str], Any]] = [storage.get, storage.exists, storage.size]
        calls += [lambda k: storage.get_range(k, 0, 1), lambda k: list(storage.stream(k))]
        calls += [lambda k: storage.put_new(k, b""), lambda k: storage.replace(k, b""), storage.remove]
        for call in calls:
            with pytest.raises(StorageError, match="expected a key below") as caught:
                call(key)
            assert "\n" not in str(caught.value)

    def test_odd_names(self, holding: Holding) -> None:
        storage = holding({f"odd/{name}": name.encode() for name in ODD_NAMES})
        assert {name: storage.get(f"odd/{name}") for name in ODD_NAMES} == {name: name.encode() for name in ODD_NAMES}

    def test_many_threads_read_at_once(self, holding: Holding) -> None:
        storage = holding({f"{n}": b"%d" % n * 10_000 for n in range(8)})
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda n: storage.get(f"{n % 8}"), range(64)))
        assert read == [b"%d" % (n % 8) * 10_000 for n in range(64)]

    def test_a_copy_reads_the_same(self, holding: Holding) -> None:
        storage = holding({"a": b"x"})
        for other in (pickle.loads(pickle.dumps(storage)), copy.deepcopy(storage)):
            assert other.url == storage.url
            assert other.get("a") == b"x"


class StorageContract(ReadingContract):
    def test_what_is_put_is_there_and_nothing_else(self, holding: Holding) -> None:
        storage = holding({})
        assert storage.list_names("") == []
        for key, data in {"a/b.json": LONG, "a/empty": b"", "c": b"\0\xff"}.items():
            assert not storage.exists(key)
            storage.put_new(key, data)
            assert storage.get(key) == data
        assert storage.list_names("") == ["a", "c"]
        assert storage.list_names("a") == ["b.json", "empty"]

    def test_what_is_there_stays(self, holding: Holding) -> None:
        storage = holding({"a": b"first"})
        for data in (b"second", b"first", b""):
            with pytest.raises(ObjectExistsError, match=f"{storage.url}/a exists already$"):
                storage.put_new("a", data)
        assert storage.get("a") == b"first"

    def test_what_is_replaced_and_removed(self, holding: Holding) -> None:
        storage = holding({"a/b": b"first", "a/c": b"other"})
        storage.replace("a/b", b"second")
        storage.replace("a/new", LONG)
        assert [storage.get(key) for key in ("a/b", "a/new", "a/c")] == [b"second", LONG, b"other"]
        for key in ("a/b", "a/b", "never/there"):
            storage.remove(key)
        assert storage.list_names("a") == ["c", "new"]
        storage.put_new("a/b", b"third")
        assert storage.get("a/b") == b"third"

    def test_of_many_writers_one_wins(self, holding: Holding) -> None:
        storage, start, outcomes = holding({}), threading.Barrier(8), list[int]()

        def put(number: int) -> None:
            start.wait()
            try:
                storage.put_new("deep/er/a", b"%d" % number * 5000)
            except ObjectExistsError:
                return
            outcomes.append(number)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(8)))
        assert len(outcomes) == 1
        assert storage.get("deep/er/a") == b"%d" % outcomes[0] * 5000
        assert storage.list_names("deep/er") == ["a"]

    def test_names_directly_below_are_listed(self, holding: Holding) -> None:
        storage = holding({"a/b/c": b"", "a/b/d": b"", "a/x": b"", "ab/y": b"", "z": b"", "a/x.tmp": b""})
        assert storage.list_names("") == ["a", "ab", "z"]
        assert storage.list_names("a") == ["b", "x", "x.tmp"]
        assert storage.list_names("a/b/") == ["c", "d"]
        for nothing in ("nothing", "z", "a/x", "a/b/c/d"):
            assert storage.list_names(nothing) == []

    def test_odd_names_are_listed_as_they_are(self, holding: Holding) -> None:
        assert holding({f"odd/{name}": b"" for name in ODD_NAMES}).list_names("odd") == sorted(ODD_NAMES)

    @pytest.mark.parametrize("key", KEYS_THAT_LEAVE[1:])
    def test_nothing_outside_is_listed(self, holding: Holding, key: str) -> None:
        with pytest.raises(StorageError, match="expected a key below"):
            holding({"x": b""}).list_names(key)

    def test_what_killed_writers_leave_is_not_listed(self, holding: Holding) -> None:
        storage = holding({"a/x.tmp": b"an object of somebody's own", "a/.x.0123.tmp": b"half", ".probe-0.tmp": b""})
        assert storage.list_names("") == ["a"]
        assert storage.list_names("a") == ["x.tmp"]
