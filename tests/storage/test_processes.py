"""Forks, spawned workers and threads: a remote storage works in them, or says that it cannot; it never hangs."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from embedkd.errors import ObjectExistsError, StorageError
from embedkd.storage import Storage, open_storage
from tests.storage.servers import QUICK

CALLS: list[Callable[[Storage], object]] = [
    lambda s: s.get("a"),
    lambda s: s.get_range("a", 0, 1),
    lambda s: list(s.stream("a")),
    lambda s: s.size("a"),
    lambda s: s.exists("a"),
    lambda s: s.list_names(""),
    lambda s: s.put_new("b", b""),
]


def _in_a_fork(act: Callable[[], None]) -> None:
    """Run something in a forked child that has ten seconds for it."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # a child that hangs is killed
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, "1 << 8: it failed; 14: it hung"


def _check_refused(storage: Storage) -> None:
    for call in CALLS:
        with pytest.raises(StorageError, match=r"cannot be used here: .* forked, .* forkserver or spawn") as caught:
            call(storage)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_what_was_used_before_a_fork_raises_in_the_child(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}", limits=QUICK)
    storage.put_new("a", b"x")
    _in_a_fork(lambda: _check_refused(storage))
    assert storage.get("a") == b"x", "the parent goes on"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_so_does_a_new_one_in_the_child(bucket: str) -> None:
    """The threads of the client library belong to the parent, whichever storage uses them."""
    open_storage(f"s3://{bucket}", limits=QUICK).put_new("a", b"x")

    def act() -> None:
        _check_refused(open_storage(f"s3://{bucket}", limits=QUICK))

    _in_a_fork(act)


_UNUSED = """
import os, signal, sys
from embedkd.storage import open_storage
storage = open_storage(sys.argv[1])
for turn in range(2):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        os._exit(0 if storage.get("a") == b"x" else 1)
    assert os.waitpid(pid, 0)[1] == 0
assert storage.get("a") == b"x"
"""


def test_one_that_was_opened_and_not_used_can_be_forked(bucket: str) -> None:
    open_storage(f"s3://{bucket}", limits=QUICK).put_new("a", b"x")
    subprocess.run([sys.executable, "-W", "ignore", "-c", _UNUSED, f"s3://{bucket}"], check=True)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_local_one_can_always_be_forked(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.put_new("a", b"x")

    def act() -> None:
        assert storage.get("a") == b"x"
        storage.put_new("b", b"y")

    _in_a_fork(act)
    assert storage.get("b") == b"y"


def _read(storage: Storage) -> bytes:
    storage.put_new(f"from-{os.getpid()}", b"")
    return storage.get("a")


def test_workers_that_are_not_forked_from_here_use_a_pickled_one(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}/x", limits=QUICK)
    storage.put_new("a", b"x")
    # Spawned: a server that other tests have started would fork with an environment older than this one's credentials.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(_read, storage).result(60) == b"x"
    assert len(storage.list_names("")) == 2


def test_what_is_in_memory_does_not_travel(memory_url: str) -> None:
    storage = open_storage(memory_url)
    storage.put_new("a", b"x")
    assert pickle.loads(pickle.dumps(storage)).get("a") == b"x"
    assert open_storage(memory_url).get("a") == b"x", "one name, one memory"
    code = "import pickle, sys; pickle.load(sys.stdin.buffer)"
    run = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(storage), capture_output=True, check=False)
    assert f"{memory_url} is in the memory of another process".encode() in run.stderr


def test_threads_that_write_first_probe_once(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}", limits=QUICK)
    probes: list[int] = []
    find_out: Callable[[], bool] = storage._find_out  # type: ignore[attr-defined]

    def counted() -> bool:
        probes.append(1)
        return find_out()

    storage._find_out = counted  # type: ignore[attr-defined]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: storage.put_new(f"{n}", b"%d" % n), range(16)))
    assert probes == [1]
    assert [storage.get(f"{n}") for n in range(16)] == [b"%d" % n for n in range(16)]
    with pytest.raises(ObjectExistsError):
        storage.put_new("3", b"")
