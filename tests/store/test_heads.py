"""Heads in a store: written once, found, checked object by object, and the choice of map for a row."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import FormatError, IntegrityError, StoreError, UnknownNameError
from embedkd.seeding import generator
from embedkd.store import TeacherView, open_store
from embedkd.store.documents import seal_group
from embedkd.store.heads import Head, folds_of, head_names, ranks, read_head, write_head
from embedkd.store.schema import MAX_DIM

FOLDS, CLASSES, DIM = 3, 3, 6  # classes and width of the whole store


def make(name: str = "linear", **changes: Any) -> Head:
    rng = generator(0, name)
    head = Head(
        name=name,
        kind="linear",
        output="cls",
        weight=rng.normal(size=(FOLDS + 1, CLASSES, DIM)).astype(np.float32),
        bias=rng.normal(size=(FOLDS + 1, CLASSES)).astype(np.float32),
        normalise=False,
        folds=FOLDS,
        seed=5,
        l2=0.01,
        made_from="e" * 64,
    )
    return replace(head, **changes)


@pytest.fixture
def view(tmp_path: Path, whole_store: Path) -> TeacherView:
    shutil.copytree(whole_store, tmp_path / "s.zarr")
    return open_store(tmp_path / "s.zarr").teacher("vit:Small")


@pytest.fixture
def shelf(view: TeacherView) -> Path:
    return Path(view.store.storage.url) / "teachers" / view.teacher_id / "heads"


def test_what_is_written_is_read(view: TeacherView) -> None:
    made = make()
    write_head(view, made)
    read = read_head(view, "linear")
    for part in ("weight", "bias"):
        np.testing.assert_array_equal(getattr(read, part), getattr(made, part))
        assert getattr(read, part).dtype == np.float32
    assert replace(read, weight=made.weight, bias=made.bias) == made
    assert read.sha256 == made.sha256
    zero_shot = {"kind": "zero-shot", "folds": 0, "l2": None, "normalise": True, "seed": 0}
    write_head(view, make("zs", weight=made.weight[:1], bias=made.bias[:1], **zero_shot))
    assert read_head(view, "zs").normalise
    assert head_names(view) == ["linear", "zs"]


def test_zarr_reads_the_arrays(view: TeacherView, shelf: Path) -> None:
    import zarr

    made = make()
    write_head(view, made)
    for part in ("weight", "bias"):
        array = zarr.open_array(shelf / "linear" / part, mode="r")
        np.testing.assert_array_equal(np.asarray(array[:]), getattr(made, part))


def test_other_content_under_one_name_is_a_conflict(view: TeacherView, shelf: Path) -> None:
    write_head(view, make())
    before = {p: p.read_bytes() for p in shelf.rglob("*") if p.is_file()}
    write_head(view, make())
    for change in ({"bias": make().bias + 1}, {"l2": 0.1}, {"seed": 6}, {"made_from": "f" * 64}):
        with pytest.raises(StoreError, match=r"head 'linear' is there with other content .*another --name"):
            write_head(view, make(**change))
    assert {p: p.read_bytes() for p in shelf.rglob("*") if p.is_file()} == before


def test_a_writer_that_was_killed_is_followed_by_one_that_finishes(view: TeacherView, shelf: Path) -> None:
    write_head(view, make())
    whole = {p: p.read_bytes() for p in shelf.rglob("*") if p.is_file()}
    put = view.store.storage.put_new
    for stop in range(2 * (1 + FOLDS + 1) + 2):
        shutil.rmtree(shelf)
        puts = 0

        def stopping(key: str, data: bytes, stop: int = stop) -> None:
            nonlocal puts
            if puts == stop:
                raise KeyboardInterrupt
            puts += 1
            put(key, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(view.store.storage, "put_new", stopping)
            with pytest.raises(KeyboardInterrupt):
                write_head(view, make())
        assert head_names(view) == []
        with pytest.raises(UnknownNameError):
            read_head(view, "linear")
        write_head(view, make())
        assert {p: p.read_bytes() for p in shelf.rglob("*") if p.is_file()} == whole


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "x" * 65, "x\0", ".hidden"])
def test_names_that_are_no_folder(view: TeacherView, name: str) -> None:
    with pytest.raises(FormatError, match="head's name"):
        write_head(view, make(name))
    with pytest.raises(UnknownNameError):
        read_head(view, name)


def test_more_classes_than_a_row_is_wide(view: TeacherView) -> None:
    wide = make(weight=np.zeros((4, MAX_DIM + 1, 1), np.float32), bias=np.zeros((4, MAX_DIM + 1), np.float32))
    with pytest.raises(FormatError, match=f"expected 1 to {MAX_DIM} classes"):
        write_head(view, wide)


@pytest.fixture
def damage(view: TeacherView, shelf: Path) -> Iterator[Callable[[str, bytes | None], None]]:
    """Two heads; replace an object's bytes or remove it, and expect that no reader uses what is left."""
    for name in ("linear", "other"):
        write_head(view, make(name))

    def change(name: str, data: bytes | None) -> None:
        before = (shelf / name).read_bytes()
        (shelf / name).unlink() if data is None else (shelf / name).write_bytes(data)
        found = []
        for head in ("linear", "other"):
            try:
                read_head(view, head)
            except (StoreError, UnknownNameError) as error:
                found.append(str(error))
        assert found, f"nobody noticed: {name}"
        assert not any("\n" in message for message in found)
        (shelf / name).write_bytes(before)

    yield change
    assert read_head(view, "other").sha256 == make("other").sha256


def objects(shelf: Path) -> list[str]:
    return sorted(p.relative_to(shelf).as_posix() for p in shelf.rglob("*") if p.is_file())


def test_every_changed_byte_is_found(shelf: Path, damage: Callable[[str, bytes | None], None]) -> None:
    rng = random.Random(0)
    for name in objects(shelf):
        data = (shelf / name).read_bytes()
        for at in {rng.randrange(len(data)) for _ in range(3)}:
            damage(name, data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])


def test_every_removed_cut_or_longer_object_is_found(shelf: Path, damage: Callable[[str, bytes | None], None]) -> None:
    for name in objects(shelf):
        data = (shelf / name).read_bytes()
        for changed in (None, b"", data[: len(data) // 2], data + b"\0"):
            damage(name, changed)


def test_every_swapped_object_is_found(shelf: Path, damage: Callable[[str, bytes | None], None]) -> None:
    """A map of another head, of another fold, or a bias of another shape."""
    names = objects(shelf)
    for name in names:
        mine = (shelf / name).read_bytes()
        for other in names:
            theirs = (shelf / other).read_bytes()
            if theirs != mine and ("/c/" in name) == ("/c/" in other):
                damage(name, theirs)


def test_a_head_of_another_teacher_is_found(view: TeacherView, shelf: Path) -> None:
    write_head(view, make())
    other = view.store.teacher("vit:Other")
    shutil.copytree(shelf, shelf.parent.parent / other.teacher_id / "heads")
    with pytest.raises(IntegrityError, match="belongs to another head or teacher"):
        read_head(other, "linear")


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 10**9},
        {"classes": 0},
        {"classes": 2},
        {"folds": 10**6},
        {"folds": 1},
        {"folds": 0},
        {"kind": "deep"},
        {"kind": "zero-shot"},
        {"output": "image"},
        {"l2": float(-1)},
        {"l2": 1},
        {"l2": "0.1"},
        {"normalise": 1},
        {"seed": None},
        {"made_from": "none"},
        {"objects": []},
        {"objects": None},
    ],
)
def test_forged_attributes_are_refused(view: TeacherView, shelf: Path, change: dict[str, Any]) -> None:
    """Sealed again by somebody who knows how."""
    write_head(view, make())
    root = shelf / "linear" / "zarr.json"
    facts = json.loads(root.read_bytes())["attributes"]["embedkd"]
    del facts["digest"], facts["format"]
    root.write_bytes(seal_group(facts | change))
    with pytest.raises(StoreError):
        read_head(view, "linear")


def test_forged_keys_of_objects_are_refused(view: TeacherView, shelf: Path) -> None:
    write_head(view, make())
    root = shelf / "linear" / "zarr.json"
    facts = json.loads(root.read_bytes())["attributes"]["embedkd"]
    del facts["digest"], facts["format"]
    facts["objects"][1]["key"] = "../../etc/passwd"
    root.write_bytes(seal_group(facts))
    with pytest.raises(IntegrityError, match="does not vouch for the objects of 4 maps"):
        read_head(view, "linear")


def test_values_that_are_not_finite_are_refused(view: TeacherView) -> None:
    weight = make().weight.copy()
    weight[2, 1, 0] = np.nan
    write_head(view, make(weight=weight))
    with pytest.raises(IntegrityError, match="not finite"):
        read_head(view, "linear")


def test_training_rows_get_the_map_without_their_fold_and_others_the_first() -> None:
    head, rng = make(), generator(1)
    rows, keys = rng.normal(size=(50, DIM)), rng.integers(0, 1 << 63, 50).astype(np.uint64)
    folds = folds_of(keys, FOLDS, 5)
    assert set(folds.tolist()) == set(range(FOLDS))
    train, val = head.logits(rows, keys, "train"), head.logits(rows, keys, "val")
    for row, fold, ours, theirs in zip(rows, folds.tolist(), train, val, strict=True):
        np.testing.assert_allclose(ours, head.weight[fold + 1] @ row + head.bias[fold + 1], rtol=1e-5)
        np.testing.assert_allclose(theirs, head.weight[0] @ row + head.bias[0], rtol=1e-5)
    assert train.dtype == np.float32


def test_folds_are_a_function_of_seed_and_key_alone() -> None:
    keys = generator(2).integers(0, 1 << 63, 3000).astype(np.uint64)
    whole = folds_of(keys, 5, 0)
    np.testing.assert_array_equal(folds_of(keys[::-1][:700], 5, 0), whole[::-1][:700])
    counts = np.bincount(whole, minlength=5)
    assert counts.min() > 600 - 5 * np.sqrt(600)
    assert not np.array_equal(folds_of(keys, 5, 1), whole)
    assert not np.array_equal(ranks(keys, 0, b"a"), ranks(keys, 0, b"b"))


def test_folds_of_known_keys() -> None:
    """Fixed for ever: stores hold logits that were divided so."""
    import hashlib

    keys = np.array([0, 1, 2**64 - 1], np.uint64)
    expected = [
        int.from_bytes(
            hashlib.blake2b(int(k).to_bytes(8, "little"), digest_size=8, key=b"-7", person=b"fold").digest(), "little"
        )
        % 5
        for k in keys
    ]
    assert folds_of(keys, 5, -7).tolist() == expected
