"""Decoding in threads and in worker processes: the same bytes, bounded, and no thread or process left behind."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from embedkd.errors import ImageError, SourceError, TeacherError
from embedkd.precompute import Job, ShardProcessor
from embedkd.precompute.batches import Assembler
from embedkd.precompute.decoding import DecodePool, window_blocks
from embedkd.precompute.worker import CHUNK_ROWS, Part, Transform, decode_into
from embedkd.progress import Silent
from embedkd.records import DecodePolicy
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter
from tests.tiny import OUTPUTS, PX, SPEC, TinyTeacher, lasting, picture, sample, to_pixels, write_shard

if TYPE_CHECKING:
    from tests.precompute.conftest import Bench


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """However a test ends, no thread and no process outlives its run."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert multiprocessing.active_children() == []


def test_the_bytes_do_not_depend_on_who_decodes(bench: "Bench") -> None:
    bench.shard("train-1.tar", [*sample("a", 0), ("b.png", b"?"), *sample("c", 1), ("d.txt", b""), *sample("e", 2)])
    stores = [bench.run(workers=workers, name=f"{workers}.zarr") for workers in (0, 1, 2)]
    first, *others = (lasting(Path(store.storage.url)) for store in stores)
    assert all(first == other for other in others)


class Killing(TinyTeacher):
    """Kills a decode worker at its second batch."""

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        if len(self.batches) == 1:
            for worker in multiprocessing.active_children():
                assert worker.pid is not None
                os.kill(worker.pid, signal.SIGKILL)
        return super().embed(pixels, outputs)


def test_a_killed_worker_is_said_in_one_line_and_a_rerun_completes(empty: "Bench") -> None:
    for number in range(6):
        write_shard(empty.data / f"train-{number}.tar", 40)
    expected = lasting(Path(empty.run(name="whole.zarr").storage.url))
    with pytest.raises(SourceError, match=r"^a decode worker was killed; .* run the same command again") as caught:
        empty.run(Killing(), workers=2)
    assert "\n" not in str(caught.value)
    assert len(empty.commits()) < 6
    assert lasting(Path(empty.run().storage.url)) == expected


class Counting(TinyTeacher):
    """Counts images that were decoded and not yet embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.flying = self.most = 0
        self._lock = threading.Lock()

    @property
    def preprocess(self) -> Callable[[Image.Image], torch.Tensor]:
        return _Probe(self)

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        time.sleep(0.002)  # decoding is faster, so the window fills
        with self._lock:
            self.flying -= len(pixels)
        return super().embed(pixels, outputs)

    def count(self) -> None:
        with self._lock:
            self.flying += 1
            self.most = max(self.most, self.flying)


class _Probe:
    def __init__(self, teacher: Counting) -> None:
        self._teacher = teacher

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return str, ("probe",)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        self._teacher.count()
        return to_pixels(image)


def test_images_in_flight_are_bounded_across_slots(empty: "Bench", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedkd.precompute.process.usable_cpus", lambda: 2)
    for number in range(8):
        write_shard(empty.data / f"train-{number}.tar", 64)
    teacher = Counting()
    empty.run(teacher)
    batch = 3
    window = CHUNK_ROWS * window_blocks(2, 1, CHUNK_ROWS * 3 * PX * PX * 4)
    assert 2 * batch < teacher.most <= window + 4 * batch  # two wait, one is filled, one is with the teacher
    assert teacher.flying == 0


@pytest.mark.parametrize(
    ("lanes", "batch", "size"), [(1, 1, 1), (2, 64, 4_816_896), (64, 4096, 1 << 24), (3, 8, 1 << 33)]
)
def test_the_window_holds_a_chunk_a_lane_and_no_more_than_its_bytes(lanes: int, batch: int, size: int) -> None:
    blocks = window_blocks(lanes, batch, size)
    assert blocks > lanes
    assert blocks == lanes + 1 or blocks * size <= 1 << 30


PART: list[Part] = [(picture("a"), "a")]


def whole(preprocess: Callable[[Image.Image], torch.Tensor]) -> Transform:
    return Transform(preprocess, (PX, PX))


def test_one_decoding_serves_every_transform() -> None:
    parts = [(picture("a"), "a"), (None, "-"), (b"?", "?"), (picture("b"), "b")]
    outs = [np.zeros((4, 3, PX, PX), np.float32) for _ in range(2)]
    found = decode_into(parts, [(whole(to_pixels), outs[0]), (whole(negated), outs[1])], DecodePolicy())
    assert set(found.faults) == {2}
    assert np.array_equal(outs[0], -outs[1])
    assert np.array_equal(outs[0][3], to_pixels(Image.open(io.BytesIO(picture("b")))).numpy())


def negated(image: Image.Image) -> torch.Tensor:
    return -to_pixels(image)


def too_small(image: Image.Image) -> torch.Tensor:
    return to_pixels(image)[:, :2]


def broken(image: Image.Image) -> torch.Tensor:
    raise ValueError("no\nsuch mode")


def picky(image: Image.Image) -> torch.Tensor:
    raise ImageError("too dark")


def test_a_preprocessing_that_fails_is_an_error_of_the_teacher() -> None:
    out = np.zeros((1, 3, PX, PX), np.float32)
    with pytest.raises(
        TeacherError, match=r"^expected float32 \[3, 6, 6\] from a teacher's preprocessing, got .*2, 6\]$"
    ):
        decode_into(PART, [(whole(too_small), out)], DecodePolicy())
    with pytest.raises(TeacherError, match=r"^preprocessing an image of \(6, 6\) failed: ValueError: no such mode$"):
        decode_into(PART, [(whole(broken), out)], DecodePolicy())
    assert decode_into(PART, [(whole(picky), out)], DecodePolicy()).faults == {0: "too dark"}


def test_errors_of_a_worker_arrive_as_they_were_raised() -> None:
    pool = DecodePool([Transform(broken, (PX, PX))], DecodePolicy(), workers=1, threads=1, batch_rows=1)
    try:
        with pytest.raises(TeacherError, match=r"^preprocessing an image .* no such mode$"):
            pool.submit(PART, pool.free.get(), (0,)).result()
    finally:
        pool.close()


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """Also by SIGKILL, which lets nobody say goodbye; and Ctrl-C to the whole group is the parent's to answer."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, sys, time, multiprocessing\n"
        "from embedkd.precompute.decoding import DecodePool\n"
        "from embedkd.precompute.worker import Transform\n"
        "from embedkd.records import DecodePolicy\n"
        "from tests.tiny import picture, to_pixels\n"
        "def main():\n"
        "    pool = DecodePool([Transform(to_pixels, (6, 6))], DecodePolicy(), workers=1, threads=1, batch_rows=1)\n"
        "    pool.submit([(picture('a'), 'a')], pool.free.get(), (0,)).result()\n"
        "    (worker,) = multiprocessing.active_children()\n"
        "    os.kill(worker.pid, signal.SIGINT)\n"
        "    pool.submit([(picture('a'), 'a')], pool.free.get(), (0,)).result()\n"
        "    print(worker.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__': main()\n"
    )
    ran = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (-signal.SIGKILL, "")
    worker = Path("/proc") / ran.stdout.strip()
    for _ in range(200):
        if not worker.exists() or "(zombie)" in (worker / "status").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent")


def test_batches_are_made_in_a_thread_whose_errors_reach_the_caller(
    bench: "Bench", monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TeacherError("no batch today")

    monkeypatch.setattr(Assembler, "_take", refuse)
    with pytest.raises(TeacherError, match="no batch today"):
        bench.run()
    assert bench.commits() == []


def test_page_locked_batches_are_asked_for_where_they_help(bench: "Bench", monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    empty = torch.empty

    def noted(*size: int, pin_memory: bool) -> torch.Tensor:
        asked.append(pin_memory)
        return empty(*size)

    monkeypatch.setattr(torch, "empty", noted)
    store = bench.create(LocalStorage(bench.folder / "store.zarr"))
    job = Job(TinyTeacher(), PassWriter(store, SPEC, Pass(OUTPUTS, 8, 1, "cpu")))
    facts = {"decode_workers": 0, "max_bad_fraction": 1.0}
    ShardProcessor(store, str(bench.data), [job], **facts, progress=Silent(), pin_memory=True).run(store.slots)  # type: ignore[arg-type]
    assert asked == [True] * 3
