"""Running a teacher over slots: rows, statuses, what is refused, and going on after anything."""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from embedkd.errors import EmbedKDError, ShardError, StorageError, TeacherError
from embedkd.precompute import ShardProcessor
from embedkd.precompute.process import Tally
from embedkd.progress import Progress, Silent
from embedkd.records import DecodePolicy, RowStatus, key_hash
from embedkd.sources.shards import index_shards, list_data
from embedkd.storage import LocalStorage
from embedkd.store import EmbeddingStore, Pass, PassWriter, average, create_store, open_store, write_class_set
from tests.tiny import CLASSES, SPEC, TinyTeacher, lasting, picture, said_of, sample, write_shard, write_tar

if TYPE_CHECKING:
    from embedkd.storage import Storage
    from embedkd.teachers.base import Teacher

Members = list[tuple[str, bytes]]
OUTPUTS = ("cls", "pooled")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on bytes being durable."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@dataclass
class Bench:
    """Shards in a folder, and a place for stores beside it."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def shard(self, name: str, members: Members) -> None:
        write_tar(self.data / name, members)

    def create(self, storage: "Storage", capacity: int | None = None) -> EmbeddingStore:
        listing = list_data(str(self.data))
        shards = index_shards(listing)
        names = tuple("abc")
        return create_store(storage, shards, root="../data", classes=names, policy=DecodePolicy(), capacity=capacity)

    def processor(
        self,
        store: EmbeddingStore,
        teacher: "Teacher | None" = None,
        *,
        threads: int = 2,
        max_bad_fraction: float = 1.0,
        progress: Progress | None = None,
    ) -> ShardProcessor:
        return ShardProcessor(
            store,
            str(self.data),
            teacher or TinyTeacher(),
            PassWriter(store, SPEC, Pass(OUTPUTS, 3, 1, "cpu")),
            decode_threads=threads,
            max_bad_fraction=max_bad_fraction,
            progress=progress or Silent(),
        )

    def run(self, teacher: "Teacher | None" = None, name: str = "store.zarr", **options: object) -> EmbeddingStore:
        capacity = options.pop("capacity", None)
        assert capacity is None or isinstance(capacity, int)
        store = self.create(LocalStorage(self.folder / name), capacity)
        self.processor(store, teacher, **options).run(store.slots)  # type: ignore[arg-type]
        return store

    def commits(self, name: str = "store.zarr") -> list[str]:
        return sorted(path.name for path in (self.folder / name).glob("teachers/*/*/commits/*.json"))


@pytest.fixture
def empty(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def bench(empty: Bench) -> Bench:
    """16 samples in three shards."""
    for name, rows in (("train-0.tar", 7), ("train-1.tar", 5), ("val-0.tar", 4)):
        write_shard(empty.data / name, rows)
    return empty


def assert_rows(store: EmbeddingStore, keys: Sequence[Sequence[str]], bad: dict[str, RowStatus] | None = None) -> None:
    """Every slot holds what a plain loop over these keys says; bad samples are NaN, and nothing else moves."""
    view = open_store(store.storage).teacher()
    for slot, names in zip(store.slots, keys, strict=True):
        for output in OUTPUTS:
            read = view.read(slot, output)
            assert read.keys.tolist() == [key_hash(key) for key in names]
            assert read.status.tolist() == [(bad or {}).get(key, RowStatus.OK) for key in names]
            for key, row in zip(names, read.rows, strict=True):
                expected = np.full(row.shape, np.nan) if key in (bad or {}) else said_of(key, output)
                np.testing.assert_array_equal(row, expected.astype(row.dtype))


def test_rows_are_those_of_a_plain_loop(bench: Bench) -> None:
    store = bench.run()
    keys = [[f"{name}/{n:03d}" for n in range(rows)] for name, rows in (("train-0", 7), ("train-1", 5), ("val-0", 4))]
    assert_rows(store, keys)
    labels = open_store(store.storage).teacher().read(0, "cls").labels
    assert labels.tolist() == [n % CLASSES for n in range(7)]


def test_bad_samples_keep_their_place(empty: Bench) -> None:
    broken = picture("broken")
    empty.shard(
        "train-0.tar",
        [
            *sample("a", 0),
            ("cut.png", broken[:60]),
            ("cut.cls", b"1"),
            *sample("b", None),
            ("text.txt", b"no image"),
            ("nothing.png", b""),
            *sample("c", 2),
            ("lie.jpg", b"<html>"),
        ],
    )
    progress = Recorder()
    store = empty.run(progress=progress)
    bad = {
        "cut": RowStatus.DECODE_ERROR,
        "text": RowStatus.FIELD_MISSING,
        "nothing": RowStatus.DECODE_ERROR,
        "lie": RowStatus.DECODE_ERROR,
    }
    assert_rows(store, [["a", "cut", "b", "text", "nothing", "c", "lie"]], bad)
    read = open_store(store.storage).teacher().read(0, "cls")
    assert read.labels.tolist() == [0, 1, -1, -1, -1, 2, -1]
    assert [line.partition(" has ")[0] for line in progress.lines] == [f"sample {key!r} of train-0.tar" for key in bad]
    assert progress.count == 7


class Recorder(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0

    def line(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, count: int, note: str = "") -> None:
        self.count += count


def test_only_the_first_bad_samples_are_told_and_all_are_counted(empty: Bench) -> None:
    for name in ("train-0.tar", "train-1.tar"):
        empty.shard(name, [(f"{name[:7]}{n}.{kind}", b"?") for n in range(4) for kind in ("png",)] + sample("z", 1))
    progress = Recorder()
    store = empty.create(LocalStorage(empty.folder / "store.zarr"))
    tally = empty.processor(store, progress=progress).run(store.slots)
    assert (tally.rows, dict(tally.bad), len(progress.lines)) == (10, {"decode_error": 8}, 5)
    assert tally.decode_s > 0
    assert tally.teacher_s > 0


def test_nothing_but_bad_samples_never_reaches_the_teacher(empty: Bench) -> None:
    empty.shard("train-0.tar", [("a.txt", b"1"), ("b.txt", b"2")])
    teacher = TinyTeacher()
    store = empty.run(teacher)
    assert teacher.batches == []
    assert_rows(store, [["a", "b"]], {"a": RowStatus.FIELD_MISSING, "b": RowStatus.FIELD_MISSING})


def test_too_many_bad_samples_stop_the_run(empty: Bench) -> None:
    empty.shard("train-0.tar", [*sample("a", 0), *sample("b", 0), ("c.png", b"x"), ("d.txt", b"")])
    with pytest.raises(
        ShardError, match=r"^2 of 4 samples of train-0\.tar cannot be read \(first: 'c': .*max_bad_frac"
    ):
        empty.run(max_bad_fraction=0.49)
    assert empty.commits() == []
    empty.run(max_bad_fraction=0.5)
    assert empty.commits() == ["0.json"]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([*sample("b", 3)], r"^sample 'b' of train-1\.tar has label 3, the data has 3 classes \(0 to 2\)$"),
        (
            [*sample("b", None), ("b.cls", b"cat")],
            r"^sample 'b' of train-1\.tar: expected a class number in \.cls, got b'c",
        ),
        ([("b.z.jpg", b""), ("b.w.jpg", b"")], r"^sample 'b' of train-1\.tar holds 2 images"),
    ],
)
def test_what_the_data_s_owner_must_mend_stops_the_run(empty: Bench, members: Members, reason: str) -> None:
    empty.shard("train-0.tar", sample("a", 0))
    empty.shard("train-1.tar", members)
    with pytest.raises(ShardError, match=reason) as refused:
        empty.run()
    assert len(str(refused.value).splitlines()) == 1
    assert empty.commits() == ["0.json"]  # what was complete is kept


def flipped(path: Path) -> None:
    data = path.read_bytes()
    at = data.index(b"IDAT")
    path.write_bytes(data[:at] + b"X" + data[at + 1 :])


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9216])


def replaced(path: Path) -> None:
    write_shard(path, 6)


@pytest.mark.parametrize("change", [flipped, shortened, replaced, Path.unlink])
def test_a_shard_that_changed_after_it_was_indexed_is_not_committed(
    bench: Bench, change: Callable[[Path], None]
) -> None:
    store = bench.create(LocalStorage(bench.folder / "store.zarr"))
    change(bench.data / "train-1.tar")
    with pytest.raises(ShardError, match=r"shard train-1\.tar") as refused:
        bench.processor(store).run(store.slots)
    assert len(str(refused.value).splitlines()) == 1
    assert bench.commits() == ["0.json"]


def test_a_shard_of_several_slots(empty: Bench) -> None:
    keys = write_shard(empty.data / "train-0.tar", 10)
    more = write_shard(empty.data / "train-1.tar", 3)
    teacher = TinyTeacher()
    store = empty.run(teacher, capacity=4)
    assert_rows(store, [keys[:4], keys[4:8], keys[8:], more])
    assert teacher.batches == [3, 1, 3, 1, 2, 3]  # a batch of 3 never spans two slots


def test_the_bytes_do_not_depend_on_decode_threads(bench: Bench) -> None:
    stores = [bench.run(threads=threads, name=f"{threads}.zarr") for threads in (1, 4)]
    first, other = (lasting(Path(store.storage.url)) for store in stores)
    assert first == other


def test_a_finished_slot_is_not_computed_again(bench: Bench) -> None:
    before = lasting(Path(bench.run().storage.url))
    teacher = TinyTeacher()
    store = bench.run(teacher)
    assert teacher.batches == []
    assert lasting(Path(store.storage.url)) == before


class WrongTeacher(TinyTeacher):
    """Says something else than its specification promises."""

    def __init__(self, said: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._said = said

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        return self._said


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"cls": torch.zeros(3, 4), "pooled": torch.zeros(3, 3)}, r"expected cls of shape \(3, 5\), got \(3, 4\)"),
        ({"cls": torch.zeros(3, 5), "pooled": torch.zeros(2, 3)}, r"expected pooled of shape \(3, 3\), got \(2, 3\)"),
        ({"cls": torch.zeros(3, 5)}, r"expected pooled of shape \(3, 3\), got none"),
    ],
)
def test_a_teacher_that_breaks_its_promise(bench: Bench, said: dict[str, torch.Tensor], reason: str) -> None:
    with pytest.raises(TeacherError, match=reason):
        bench.run(WrongTeacher(said))
    assert bench.commits() == []


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


def everything(bench: Bench, storage: "Storage") -> None:
    """What a precompute does with a store, from its creation to the class means."""
    store = bench.create(storage)
    bench.processor(store).run(store.slots)
    view = open_store(storage).teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=2, seed=0))


@pytest.mark.parametrize("after", [False, True])
def test_after_a_failure_at_any_put_a_rerun_ends_in_the_same_bytes(bench: Bench, *, after: bool) -> None:
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
    bench: Bench, monkeypatch: pytest.MonkeyPatch
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
def test_an_interruption_at_any_batch_keeps_every_complete_slot(bench: Bench, error: BaseException) -> None:
    whole = bench.run(name="whole.zarr")
    expected = lasting(Path(whole.storage.url))
    kept = []
    for at in range(7):
        with pytest.raises(type(error)):
            bench.run(StoppedTeacher(at, error), name=f"{at}.zarr")
        kept.append(len(bench.commits(f"{at}.zarr")))
        assert lasting(Path(bench.run(name=f"{at}.zarr").storage.url)) == expected
    assert kept == [0, 0, 0, 1, 1, 2, 2]  # slots of 3, 2 and 2 batches


def test_a_tally_begins_at_nothing() -> None:
    assert (Tally().rows, Tally().bad.total()) == (0, 0)


def test_errors_of_the_writer_reach_the_caller(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing happens in another thread, behind the next slot's teacher."""
    teacher = TinyTeacher()

    def refuse(*_: object) -> None:
        raise StorageError("read-only")

    monkeypatch.setattr(PassWriter, "write", refuse)
    with pytest.raises(EmbedKDError, match="read-only"):
        bench.run(teacher)
    assert sum(teacher.batches) == 12  # the third slot was not begun
