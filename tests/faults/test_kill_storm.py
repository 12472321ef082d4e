"""SIGKILL at random moments: what is on disk is whole or absent, and a rerun ends in the same bytes."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import SPEC, TEXT_SPEC, lasting, write_shard

SHARDS = {"train-0.tar": 7, "train-1.tar": 4, "train-2.tar": 8, "val-0.tar": 3}


class Zygote:
    """See `tests.faults.zygote`."""

    def __init__(self, data: Path, teachers: tuple[str, ...]) -> None:
        self._data = data
        self._teachers = teachers
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, store: Path, die_at: int = 0) -> int:
        return self._ask(
            {"start": {"data": str(self._data), "out": str(store), "teachers": self._teachers, "die_at": die_at}}
        )

    def wait(self, pid: int) -> int:
        return self._ask({"wait": pid})

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, rows in SHARDS.items():
        write_shard(folder / name, rows)
    return folder


@pytest.fixture(scope="module")
def zygote(data: Path) -> Iterator[Zygote]:
    process = Zygote(data, (SPEC.name,))
    yield process
    process.close()


@pytest.fixture(scope="module")
def pair(data: Path) -> Iterator[Zygote]:
    """Two teachers in one pass over the data."""
    process = Zygote(data, (SPEC.name, TEXT_SPEC.name))
    yield process
    process.close()


def undisturbed(zygote: Zygote, folder: Path) -> tuple[dict[str, Any], float]:
    """What a run ends in, and how long it takes."""
    for store in (folder / "warm-up.zarr", folder / "whole.zarr"):
        started = time.perf_counter()
        assert zygote.wait(zygote.start(store)) == 0
    return lasting(store), time.perf_counter() - started


def disturbed(zygote: Zygote, store: Path, writers: int, moments: Iterator[float]) -> int:
    """Start writers, kill each at its moment; how many were killed before they were done."""
    started = time.perf_counter()
    pids = [zygote.start(store) for _ in range(writers)]
    for moment, pid in sorted(zip(moments, pids, strict=False)):
        time.sleep(max(0.0, started + moment - time.perf_counter()))
        os.kill(pid, signal.SIGKILL)
    codes = [zygote.wait(pid) for pid in pids]
    assert set(codes) <= {0, -signal.SIGKILL}
    return codes.count(-signal.SIGKILL)


def storm(zygote: Zygote, folder: Path, writers: int, kills: int) -> None:
    """Kill until there were so many kills; every store is disturbed until a run comes through."""
    expected, duration_s = undisturbed(zygote, folder)
    rng = random.Random(f"storm {writers}")
    moments = iter(lambda: rng.uniform(0, 1.1 * duration_s), None)
    killed, stores = 0, 0
    while killed < kills:
        stores += 1
        store = folder / f"{stores}.zarr"
        while (hits := disturbed(zygote, store, writers, moments)) == writers:
            killed += hits
            found = lasting(store) if store.exists() else {}
            assert found.items() <= expected.items()  # whatever has its name is whole
        killed += hits
        assert zygote.wait(zygote.start(store)) == 0
        assert lasting(store) == expected
    print(f"{killed} kills, {stores} stores, {duration_s * 1000:.0f} ms undisturbed")


def test_death_before_any_name_is_given_leaves_what_a_rerun_completes(zygote: Zygote, tmp_path: Path) -> None:
    """Every state that a kill can leave, one after the other."""
    expected, _ = undisturbed(zygote, tmp_path)
    for death in itertools.count(1):
        store = tmp_path / f"{death}.zarr"
        code = zygote.wait(zygote.start(store, death))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert zygote.wait(zygote.start(store)) == 0, f"after death {death}"
        assert lasting(store) == expected
    assert death > len(expected)


@pytest.mark.parametrize("writers", [1, 2])
def test_killed_writers_leave_what_a_rerun_completes(zygote: Zygote, tmp_path: Path, writers: int) -> None:
    storm(zygote, tmp_path, writers, kills=30)


def test_killed_writers_of_two_teachers_leave_what_a_rerun_completes(pair: Zygote, tmp_path: Path) -> None:
    storm(pair, tmp_path, 1, kills=15)


@pytest.mark.storm
@pytest.mark.parametrize("writers", [1, 2, 3])
def test_a_thousand_kills(zygote: Zygote, tmp_path: Path, writers: int) -> None:
    storm(zygote, tmp_path, writers, kills=334)
