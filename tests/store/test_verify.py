"""What verify says of whole and of damaged stores."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedkd.records import Shard
from embedkd.store import OutputCheck, check_output, open_store
from embedkd.store.verify import MAX_PROBLEMS


@pytest.fixture
def folder(whole_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_store, tmp_path / "s.zarr"))


def found(folder: Path, output: str = "cls") -> OutputCheck:
    return check_output(open_store(folder).teacher("vit:Small"), output)


def test_a_whole_store_is_counted(folder: Path) -> None:
    store = open_store(folder)
    check = found(folder)
    rows = sum(slot.rows for slot in store.slots)
    assert (check.slots, check.committed, check.rows) == (len(store.slots), len(store.slots), rows)
    assert check.usable == rows - sum(slot.rows > 1 for slot in store.slots)  # the second sample of each slot is lost
    assert (check.class_sets, check.problems) == (1, ())


def test_every_slot_is_told(folder: Path) -> None:
    ticks: list[int] = []
    view = open_store(folder).teacher("vit:Small")
    check_output(view, "pooled", lambda: ticks.append(1))
    assert len(ticks) == len(view.store.slots)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "swap"])
def test_each_damaged_slot_is_named_and_the_others_are_read(folder: Path, damage: str) -> None:
    whole = found(folder)
    base = folder / "teachers" / open_store(folder).teacher("vit:Small").teacher_id / "cls" / "c"
    chunk, other = base / "1" / "0", base / "0" / "0"
    data = chunk.read_bytes()
    if damage == "flip":
        chunk.write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])
    elif damage == "cut":
        chunk.write_bytes(data[:-1])
    elif damage == "remove":
        chunk.unlink()
    else:
        shutil.copy(other, chunk)
    check = found(folder)
    (problem,) = check.problems
    assert problem.startswith("slot 1: ")
    assert check.committed == whole.committed
    assert check.rows == whole.rows - open_store(folder).slots[1].rows
    assert found(folder, "pooled").problems == ()


def test_a_damaged_class_set_is_named(folder: Path) -> None:
    sets = folder / "teachers" / open_store(folder).teacher("vit:Small").teacher_id / "classes"
    mean = next(sets.glob("*/cls/mean/c/0/0"))
    mean.write_bytes(mean.read_bytes()[:-1] + b"\0")
    check = found(folder)
    assert check.class_sets == 0
    assert check.problems[0].startswith("class set n2-seed0: ")


def test_a_hole_is_no_problem(folder: Path) -> None:
    commits = folder / "teachers" / open_store(folder).teacher("vit:Small").teacher_id
    for commit in commits.glob("pass-*/commits/0.json"):
        commit.unlink()
    check = found(folder)
    assert check.committed == check.slots - 1
    assert check.problems == ()


def test_a_ruin_is_told_in_few_lines(kit: Any, tmp_path: Path) -> None:
    many = replace(kit, shards=tuple(Shard(f"{i}.tar", "train", 10, 1, f"{i:064x}") for i in range(MAX_PROBLEMS + 5)))
    folder = tmp_path / "many.zarr"
    many.fill(many.create(folder), kit.spec(), ("cls",))
    for chunk in folder.glob("teachers/*/cls/c/*/0"):
        chunk.unlink()
    assert len(found(folder).problems) == MAX_PROBLEMS
