"""The library on a store in a bucket: the same answers as from a folder, in other processes too, and never a hang."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from embedkd.errors import StorageError
from embedkd.storage import LocalStorage, open_storage
from embedkd.store import EmbeddingStore, copy_store, open_store
from tests.storage.servers import QUICK

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def remote(bucket: str, example_store: Path) -> EmbeddingStore:
    storage = open_storage(f"s3://{bucket}/store.zarr", limits=QUICK)
    copy_store(LocalStorage(example_store / "store.zarr"), storage)
    return open_store(storage)


def _answers(store: EmbeddingStore) -> list[bytes]:
    where = store.lookup(["cat_05", "ant_21", "nobody"])
    return [
        *(part.tobytes() for part in (where.slot, where.row, where.count)),
        *(read.rows.tobytes() for _, read in store.iterate("cls")),
        store.take(where, "logits", allow_missing=True).tobytes(),
        store.classes(output="cls").mean.tobytes(),
        repr(store.teachers).encode(),
    ]


def test_a_bucket_says_what_a_folder_says_also_to_threads(remote: EmbeddingStore, example_store: Path) -> None:
    expected = _answers(open_store(example_store / "store.zarr"))
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(_answers, [remote] * 8))


def test_workers_that_are_not_forked_from_here_use_it(remote: EmbeddingStore) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(_answers, remote).result(60) == _answers(remote)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_behind_a_fork_it_raises_and_does_not_hang(remote: EmbeddingStore) -> None:
    """Also in the middle of a walk: what was read ahead stays with the parent."""
    expected = _answers(remote)
    walk, where = remote.iterate("cls"), remote.lookup(["cat_05"])
    next(walk)
    calls: list[Callable[[], object]] = [
        lambda: remote.read(0, "cls"),
        lambda: remote.teachers,
        lambda: remote.lookup(["cat_05"]),
        lambda: remote.take(where, "cls"),
        lambda: remote.classes(output="cls"),
        lambda: list(remote.iterate("cls")),
        lambda: next(walk),
        lambda: open_store(remote.storage.url),
    ]
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            for call in calls:
                with pytest.raises(StorageError, match=r"forked, .* forkserver or spawn"):
                    call()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "256: it failed; 14: it hung"
    assert len(list(walk)) == 3, "the parent goes on"
    assert _answers(remote) == expected
