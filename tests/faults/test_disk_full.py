"""A disk that is full, at every write of what is done to a store, and a real one: one line, and it goes on later."""

import errno
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from embedkd.errors import StorageError
from embedkd.storage import LocalStorage
from tests.faults.held import settled
from tests.faults.scenes import SCENES, Scene
from tests.faults.storms import Zygote, check_finished, check_unfinished, precompute_command, state_of
from tests.tiny import write_shard

CALLS = ("write", "link", "mkdir", "replace", "open")
WRITING = [s for s in SCENES if s.name in {"write", "seal", "append", "average", "head", "copy", "merge"}]
KIB = 1 << 10


class FullDisk:
    """Stands in for what `os` does to a disk: the n-th call finds no space; a write takes half of its bytes before.

    Args:
        patch: Puts it in place.
        full_at: n, from 1; 0 never.
    """

    def __init__(self, patch: pytest.MonkeyPatch, full_at: int) -> None:
        self.calls = 0
        self._full_at = full_at
        for name in CALLS:
            patch.setattr(os, name, self._standing_in(getattr(os, name), name))

    def _standing_in(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def stand_in(*arguments: Any, **options: Any) -> Any:
            if name != "open" or arguments[1] & os.O_TMPFILE == os.O_TMPFILE:
                self.calls += 1
                if self.calls == self._full_at:
                    if name == "write":
                        call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **options)

        return stand_in


def put_all(folder: Path, states: Mapping[str, Mapping[str, bytes]]) -> dict[str, LocalStorage]:
    for name, state in states.items():
        for key, data in state.items():
            path = folder / name / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return {name: LocalStorage(folder / name) for name in states}


@pytest.mark.parametrize("scene", WRITING, ids=str)
def test_whichever_write_finds_the_disk_full_the_same_command_goes_on(
    scene: Scene, tmp_path: Path, thorough: bool
) -> None:
    before = scene.before()
    whole = put_all(tmp_path / "whole", before)
    with pytest.MonkeyPatch.context() as patch:
        disk = FullDisk(patch, 0)
        scene.act(whole)
    expected = {name: settled(state_of(storage)) for name, storage in whole.items()}
    assert disk.calls > 10
    for call in range(1, disk.calls + 1, 1 if thorough else 1 + disk.calls // 14):
        storages = put_all(tmp_path / f"{call}", before)
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(patch, call)
            with pytest.raises(StorageError, match=r"^no space left to write [^\n]*$"):
                scene.act(storages)
        scene.act(storages)
        assert {name: settled(state_of(storage)) for name, storage in storages.items()} == expected
        shutil.rmtree(tmp_path / f"{call}")


def can_mount() -> bool:
    """Whether this system lets an ordinary process have a small disk of its own."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Zygote, Path, Path]]:
    """Writers that have a disk of 1 MiB; where they see it, and where this process does."""
    inside = tmp_path / "disk"
    inside.mkdir()
    mount = f'mount -t tmpfs -o size=1m tmpfs "{inside}" && exec "$@"'
    zygote = Zygote(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"])
    zygote.run("--version")  # it has the disk now
    yield zygote, inside, Path(f"/proc/{zygote.pid}/root{inside}")
    zygote.close()


@pytest.mark.skipif(not can_mount(), reason="this system lets no process mount a disk of its own")
def test_a_real_disk_that_fills_up_is_said_in_one_line_and_the_same_command_goes_on(
    small_disk: tuple[Zygote, Path, Path], tmp_path: Path, thorough: bool
) -> None:
    zygote, inside, outside = small_disk
    for name, rows in {"train-0.tar": 7, "train-1.tar": 4, "val-0.tar": 3}.items():
        write_shard(tmp_path / "data" / name, rows)
    ballast, errors, failed = outside / "ballast", tmp_path / "errors", 0
    command = precompute_command(tmp_path / "data", inside / "s.zarr")
    zygote.run(*command)
    needed, expected = used(outside), settled(state_of(LocalStorage(outside / "s.zarr")))
    for left in itertools.count(0, (4 if thorough else 32) * KIB):
        shutil.rmtree(outside / "s.zarr")
        fill_up(ballast, outside, left)
        code = zygote.wait(zygote.start(*command, errors=errors))
        if code == 0:
            break
        failed += 1
        assert code == 1
        (said,) = [line for line in errors.read_text().splitlines() if "error" in line.lower() or "space" in line]
        assert said.startswith("error: no space left to write ")
        storage = LocalStorage(outside / "s.zarr")
        check_unfinished(storage, expected)
        ballast.unlink()
        zygote.run(*command)
        check_finished(storage, expected)
    assert failed >= needed // (40 * KIB)


def used(folder: Path) -> int:
    facts = os.statvfs(folder)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


def fill_up(ballast: Path, folder: Path, left: int) -> None:
    """Leave so many bytes."""
    facts = os.statvfs(folder)
    ballast.write_bytes(bytes(facts.f_bfree * facts.f_frsize - left))
