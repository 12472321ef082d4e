"""What verify says of whole and of damaged stores."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import StoreError
from embedkd.records import Shard
from embedkd.storage import LocalStorage
from embedkd.store import OutputCheck, append_shards, check_objects, check_output, open_store, seal_store
from embedkd.store.documents import seal
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


@pytest.fixture
def sealed(folder: Path) -> Path:
    """Two generations, and a seal of the second one."""
    append_shards(LocalStorage(folder), (Shard("train-2.tar", "train", 4_096, 10, "e" * 64),))
    seal_store(LocalStorage(folder))
    return folder


def test_whole_stores_have_no_problems(folder: Path, sealed: Path) -> None:
    ticks: list[int] = []
    assert check_objects(open_store(sealed), lambda: ticks.append(1)) == ()
    assert len(ticks) == 3 * 7


def test_every_single_broken_object_of_a_sealed_store_is_named(sealed: Path) -> None:
    """Where a store does not open any more, opening names it."""
    rng = np.random.default_rng(0)
    paths = sorted(path for path in sealed.rglob("*") if path.is_file())
    for number, path in enumerate(paths):
        if "/c/" in path.as_posix() and number % 4:
            continue  # of chunks a quarter
        data, name = path.read_bytes(), path.relative_to(sealed).as_posix()
        at = int(rng.integers(len(data)))
        path.unlink()
        if number % 3 or name == UNKNOWN_TO_ALL:
            path.write_bytes(
                [data[:-1], data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]][at % 2]
            )
        assert problems(sealed), name
        path.write_bytes(data)
    assert not problems(sealed)


UNKNOWN_TO_ALL = "sealed/0.json"  # without it the store is as it was before it was sealed, and whole


def problems(folder: Path) -> tuple[str, ...]:
    try:
        store = open_store(folder)
        found = [
            check_output(store.teacher(n), o).problems for n in store.teacher_ids for o in store.teacher(n).outputs
        ]
        return (*check_objects(store), *(problem for each in found for problem in each))
    except StoreError as error:
        return (str(error),)


def test_a_commit_of_another_attempt_is_not_the_one_that_was_sealed(sealed: Path) -> None:
    path = next(sealed.glob("teachers/*/pass-*/commits/1.json"))
    document = json.loads(path.read_bytes())
    del document["digest"]
    path.write_bytes(seal({**document, "attempt": {}}))
    (problem,) = check_objects(open_store(sealed))
    assert problem == f"{path.relative_to(sealed).as_posix()} is not the one that was sealed; restore it"


def test_generations_have_to_follow_each_other(sealed: Path) -> None:
    path = sealed / "manifest/0.json"
    document = json.loads(path.read_bytes())
    del document["digest"]
    document["slots"][0]["url"] = document["slots"][1]["url"] = "other.tar"
    path.write_bytes(seal(document))
    (problem,) = check_objects(open_store(sealed))
    assert problem == "manifest/1.json does not go on from generation 0"


def test_every_seal_that_was_made_is_looked_at(whole_store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole_store, tmp_path / "s"))
    storage = LocalStorage(folder)
    seal_store(storage)
    append_shards(storage, (Shard("train-9.tar", "train", 4_096, 10, "e" * 64),))
    seal_store(storage)
    assert check_objects(open_store(folder)) == ()
    first = folder / "sealed/0.json"
    sound = first.read_bytes()
    first.write_bytes(sound.replace(b'"number":0', b'"number":1'))
    assert "sealed/0.json" in check_objects(open_store(folder))[0]
    first.unlink()
    assert "sealed/0.json is gone, a later one is there" in check_objects(open_store(folder))[0]
