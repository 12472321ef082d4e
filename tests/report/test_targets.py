from collections.abc import Callable
from pathlib import Path

import pytest

from embedkd.records import DecodePolicy, Shard
from embedkd.report.runs import read_runs
from embedkd.report.targets import targets_of
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, create_store
from tests.tiny import SPEC

MakeRun = Callable[..., Path]
SHARDS = (Shard("train-0.tar", "train", 1024, 20, "0" * 64), Shard("test-0.tar", "test", 1024, 5, "1" * 64))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store.zarr"
    store = create_store(LocalStorage(path), SHARDS, root="data:clipart", classes=("a", "b"), policy=DecodePolicy())
    PassWriter(store, SPEC, Pass(("cls",), 8, 1, "none"))
    return path


def test_teacher_and_store_are_described_once(make_run: MakeRun, store: Path) -> None:
    runs = read_runs([make_run(name, train={"targets": str(store)}) for name in "ab"])
    ((numbers, facts),) = targets_of(runs)
    found = dict(facts)
    assert numbers == [0, 1]
    assert found["Teacher"] == SPEC.name
    assert found["Outputs"] == "cls (5, float16)"
    assert found["Samples"] == "20 train, 5 test"
    assert (found["Classes"], found["Shards"]) == ("2", "2 of data:clipart")
    assert found["Store"].startswith(f"{store}, id ")
    assert "Licence" not in found, "the tiny teacher has none"


def test_a_store_out_of_reach_is_said_so(make_run: MakeRun, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.zarr")
    ((_, facts),) = targets_of(read_runs([make_run(train={"targets": gone})]))
    assert dict(facts)["Store"] == gone
    assert "no embedding store" in dict(facts)["Not opened"]


def test_a_run_that_used_no_targets_has_none(make_run: MakeRun) -> None:
    assert (
        targets_of(read_runs([make_run("a", result={"teacher": None}), make_run("b", train={"targets": None})])) == []
    )
