"""Clocks that are wrong, that jump, and files whose times lie: nothing that matters depends on them."""

import os
import random
import time
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Self

import pytest

import embedkd.precompute.process
import embedkd.store.creation
import embedkd.teachers
from embedkd.config import Config, DataConfig, PrecomputeConfig
from embedkd.errors import EmbedKDError
from embedkd.precompute import precompute
from embedkd.storage import LocalStorage
from embedkd.store import open_store, seal_store
from tests.faults.held import settled
from tests.faults.scenes import read_everything, verify
from tests.faults.storms import state_of
from tests.faults.training import train_reads
from tests.faults.zygote import load_tiny
from tests.tiny import OUTPUTS, SPEC, write_shard

YEAR_S = 365 * 86_400.0
_real_time = time.time


class LeapingClock:
    """Stands in for `time.time`: each answer is up to 20 years from the truth, before or after."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"{seed} clock")
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return _real_time() + self._rng.uniform(-20, 20) * YEAR_S


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, storm_seed: int) -> LeapingClock:
    leaping = LeapingClock(storm_seed)

    class Leaping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(leaping(), tz or UTC)

    monkeypatch.setattr(time, "time", leaping)
    for module in (embedkd.precompute.process, embedkd.store.creation):
        monkeypatch.setattr(module, "datetime", Leaping)
    return leaping


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedkd.teachers, "load_teacher", load_tiny)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, rows in {"train-0.tar": 5, "train-1.tar": 3, "val-0.tar": 3}.items():
        write_shard(tmp_path / "data" / name, rows)
    return tmp_path / "data"


def run(data: Path, out: Path) -> int:
    """Samples computed."""
    settings = PrecomputeConfig(
        teachers=(SPEC.name,), out=str(out), outputs=OUTPUTS, batch_size=3, threads=1, decode_workers=0, device="cpu"
    )
    return precompute(Config(data=DataConfig(shards=str(data)), precompute=settings)).computed


def lie(folder: Path, rng: random.Random) -> None:
    """Give every file and folder another time, some of them in the future."""
    for path in (*folder.rglob("*"), folder):
        when = _real_time() + rng.uniform(-20, 20) * YEAR_S
        os.utime(path, (when, when))


def forget_a_slot(out: Path) -> None:
    """As if the run had been killed before its last commit."""
    next(out.glob("teachers/*/pass-*/commits/2.json")).unlink()


def test_a_clock_that_leaps_changes_nothing_that_lasts(
    data: Path, tmp_path: Path, clock: LeapingClock, monkeypatch: pytest.MonkeyPatch, storm_seed: int
) -> None:
    out, rng = tmp_path / "leaping.zarr", random.Random(f"{storm_seed} times")
    run(data, out)
    assert clock.asked >= 3
    forget_a_slot(out)
    lie(out, rng)
    lie(data, rng)
    assert run(data, out) == 3, "it goes on with what is missing, and with nothing else"
    lie(out, rng)
    assert run(data, out) == 0
    monkeypatch.setattr(time, "time", _real_time)
    run(data, tmp_path / "steady.zarr")
    leaping, steady = LocalStorage(out), LocalStorage(tmp_path / "steady.zarr")
    assert settled(state_of(leaping)) == settled(state_of(steady))
    assert read_everything(leaping) == read_everything(steady)


def test_times_of_files_decide_nothing_for_readers(data: Path, tmp_path: Path, storm_seed: int) -> None:
    out, rng = tmp_path / "s.zarr", random.Random(f"{storm_seed} readers")
    run(data, out)
    seal_store(LocalStorage(out))
    right, state = train_reads(out), state_of(LocalStorage(out))
    for _ in range(5):
        lie(out, rng)
        lie(data, rng)
        verify(LocalStorage(out))
        assert train_reads(out) == right
        assert not seal_store(LocalStorage(out)).new
    assert state_of(LocalStorage(out)) == state


@pytest.mark.parametrize("years", [-10, 0, 10])
def test_a_shard_that_was_exchanged_is_noticed_whatever_its_time_says(data: Path, tmp_path: Path, years: int) -> None:
    """Same name, same length, and a time that says that nothing happened."""
    out = tmp_path / "s.zarr"
    run(data, out)
    right = train_reads(out)
    shard = data / "val-0.tar"
    content, when = shard.read_bytes(), shard.stat().st_mtime + years * YEAR_S
    shard.write_bytes(content.replace(b"val-0/000", b"val-0/999"))
    os.utime(shard, (when, when))
    with pytest.raises(EmbedKDError, match=r"val-0\.tar"):
        train_reads(out)
    forget_a_slot(out)
    with pytest.raises(EmbedKDError, match=r"val-0\.tar"):
        run(data, out)
    assert [slot.index for slot in open_store(out).teacher().holes("cls")] == [2], "nothing of it was committed"
    shard.write_bytes(content)
    run(data, out)
    assert train_reads(out) == right
