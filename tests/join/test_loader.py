"""Worker processes: the same batches, and errors as they were raised."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from embedkd.errors import JoinError, ShardError, UnknownNameError
from embedkd.join import Batch, JoinedShards, make_loader, stored_samples
from embedkd.join.loader import _Failure, _Guarded
from tests.tiny import augmented

if TYPE_CHECKING:
    from tests.join.conftest import World


def dataset(world: "World", start: tuple[int, int] = (0, 0)) -> JoinedShards:
    samples = stored_samples(world.view, "train", ("cls",))
    return JoinedShards(samples, augmented, global_batch_size=4, epochs=3, start=start, seed=5)


def facts(batches: list[Batch]) -> list[tuple[object, ...]]:
    return [(b.keys, b.pixels.tolist(), b.labels.tolist(), b.targets["cls"].tolist()) for b in batches]


def test_workers_give_the_same_sequence_again_and_again_and_their_errors(world: "World") -> None:
    """One test, since starting workers takes seconds: 1 and 2 of them, resumed, interrupted, killed, and refused."""
    expected = facts(list(dataset(world)))
    assert facts(list(make_loader(dataset(world), workers=0))) == expected
    assert facts(list(make_loader(dataset(world, (1, 2)), workers=1))) == expected[7:]

    loader = make_loader(dataset(world), workers=2)
    assert facts(list(loader)) == expected
    batches = iter(loader)
    first = next(batches)
    pids = [worker.pid for worker in loader._iterator._workers]  # type: ignore[union-attr]
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    assert facts([first, *batches]) == expected

    batches = iter(loader)
    next(batches)
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(JoinError, match=r"^a data worker was killed; .*$"):
        list(batches)
    del batches, loader

    path = world.data / "train-1.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(ShardError, match=r"^shard train-1\.tar is not the one that was indexed: .*$"):
        list(make_loader(dataset(world), workers=2))


def test_an_error_leaves_its_worker_as_its_kind_and_its_line(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    lost = dataset(world)
    monkeypatch.setattr("embedkd.join.loader.get_worker_info", lambda: object())
    path = Path(lost.samples.root) / "train-1.tar"
    path.unlink()
    *_, failure = _Guarded(lost)
    assert isinstance(failure, _Failure)
    with pytest.raises(ShardError, match=r"^cannot open shard train-1\.tar"):
        failure.reraise()
    with pytest.raises(UnknownNameError, match=r"^no such name$"):
        _Failure(UnknownNameError, "no such name").reraise()


def test_without_workers_errors_come_as_they_are(world: "World") -> None:
    lost = dataset(world)
    (world.data / "train-1.tar").unlink()
    with pytest.raises(ShardError, match=r"^cannot open shard train-1\.tar"):
        list(make_loader(lost, workers=0))


def test_other_runtime_errors_are_not_renamed(world: "World") -> None:
    broken = dataset(world)
    broken.transform = lambda image, seed: torch.zeros(3, seed % 5 + 1, 1)
    with pytest.raises(RuntimeError, match="stack expects each tensor"):
        list(make_loader(broken, workers=0))
