"""A precompute that fails anywhere: what is complete is kept, and a rerun ends in the same bytes."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from embedkd.errors import EmbedKDError, StorageError, TeacherError
from embedkd.storage import LocalStorage
from embedkd.store import PassWriter, average, open_store, write_class_set
from tests.tiny import TinyTeacher, lasting

if TYPE_CHECKING:
    from embedkd.storage import Storage
    from tests.precompute.conftest import Bench


class FaultyStorage(LocalStorage):
    """Fails once, at one put: before it, or after it as if the answer had been lost."""

    def __init__(self, root: Path, fail_at: int, *, after: bool) -> None:
        super().__init__(root)
        self.puts = 0
        self._fail_at = fail_at
        self._after = after

    def put_new(self, key: str, data: bytes) -> None:
        self.puts += 1
        fails = self.puts == self._fail_at
        if fails and not self._after:
            raise StorageError("the disk is gone")
        super().put_new(key, data)
        if fails:
            raise StorageError("the answer is gone")


def everything(bench: "Bench", storage: "Storage") -> None:
    """What a precompute does with a store, from its creation to the class means."""
    store = bench.create(storage)
    bench.processor(store).run(store.slots)
    view = open_store(storage).teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=2, seed=0))


@pytest.mark.parametrize("after", [False, True])
def test_after_a_failure_at_any_put_a_rerun_ends_in_the_same_bytes(bench: "Bench", *, after: bool) -> None:
    undisturbed = FaultyStorage(bench.folder / "whole.zarr", 0, after=after)
    everything(bench, undisturbed)
    expected = lasting(undisturbed.root)
    for put in range(1, undisturbed.puts + 1):
        root = bench.folder / f"{put}.zarr"
        with pytest.raises(StorageError, match="is gone"):
            everything(bench, FaultyStorage(root, put, after=after))
        everything(bench, LocalStorage(root))
        assert lasting(root) == expected, put


_write = os.write


class Disk:
    """Stands in for `os.write`: takes so many bytes, and half of what goes beyond."""

    def __init__(self, capacity_bytes: float) -> None:
        self._capacity_bytes = capacity_bytes
        self.used_bytes = 0

    def write(self, handle: int, data: bytes) -> int:
        self.used_bytes += len(data)
        if self.used_bytes <= self._capacity_bytes:
            return _write(handle, data)
        _write(handle, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on_later(
    bench: "Bench", monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = Disk(float("inf"))
    monkeypatch.setattr(os, "write", roomy.write)
    expected = lasting(Path(bench.run(name="whole.zarr").storage.url))
    whole_bytes, kept = roomy.used_bytes, []
    for tenth in range(10):
        full = Disk(whole_bytes * tenth / 10)
        monkeypatch.setattr(os, "write", full.write)
        with pytest.raises(StorageError, match=r"^no space left to write .*; free some and run the same command again"):
            bench.run(name=f"{tenth}.zarr")
        kept.append(len(bench.commits(f"{tenth}.zarr")))
        monkeypatch.setattr(os, "write", roomy.write)
        assert lasting(Path(bench.run(name=f"{tenth}.zarr").storage.url)) == expected
    assert set(kept) >= {0, 1, 2}


class StoppedTeacher(TinyTeacher):
    """Is interrupted at one batch."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self._at = at
        self._error = error

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        if len(self.batches) == self._at:
            raise self._error
        return super().embed(pixels, outputs)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TeacherError("out of memory")])
def test_an_interruption_at_any_batch_keeps_every_complete_slot(bench: "Bench", error: BaseException) -> None:
    whole = bench.run(name="whole.zarr")
    expected = lasting(Path(whole.storage.url))
    kept = []
    for at in range(7):
        with pytest.raises(type(error)):
            bench.run(StoppedTeacher(at, error), name=f"{at}.zarr")
        kept.append(len(bench.commits(f"{at}.zarr")))
        assert lasting(Path(bench.run(name=f"{at}.zarr").storage.url)) == expected
    assert kept == [0, 0, 0, 1, 1, 2, 2]  # slots of 3, 2 and 2 batches


def test_errors_of_the_writer_reach_the_caller(bench: "Bench", monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing happens in another thread, behind the next slot's teacher."""
    teacher = TinyTeacher()

    def refuse(*_: object) -> None:
        raise StorageError("read-only")

    monkeypatch.setattr(PassWriter, "write", refuse)
    with pytest.raises(EmbedKDError, match="read-only"):
        bench.run(teacher)
    assert sum(teacher.batches) == 12  # the third slot was not begun
