"""Objects of another store, and forged ones, in the place of a store's own: no reader uses what is left.

"Reading" is what training does and more: open, every teacher, every slot of every output, every class set. What a disk
does to single objects is in tests/faults/test_damage.py.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import StorageError, StoreError
from embedkd.records import DecodePolicy
from embedkd.store import open_store, set_names
from embedkd.store.commits import ObjectRecord
from embedkd.store.documents import seal
from embedkd.store.encoding import decode_chunk, encode_chunk
from embedkd.store.schema import ArraySchema

TEACHERS = {"vit:Small": ("cls", "pooled"), "vit:Other": ("cls",)}
CLASS_SETS = {"vit:Small": ("cls", "pooled"), "vit:Other": ("cls",)}


def read_everything(folder: Path) -> None:
    store = open_store(folder)
    for teacher, outputs in TEACHERS.items():
        view = store.teacher(teacher)
        for output in outputs:
            for slot in store.slots:
                view.read(slot, output)
        for output in CLASS_SETS[teacher]:
            view.class_set(None, output)


def kind_of(name: str) -> str:
    """What an object could be mistaken for."""
    parts = name.split("/")
    if parts[-1] == "zarr.json":
        return "metadata"
    if "commits" in parts:
        return "commit"
    return parts[-1] if parts[-1].endswith(".json") else "chunk"


@pytest.fixture(scope="session")
def small(kit: Any) -> Any:
    """Fewer slots: every object is damaged in many ways, and everything is read each time."""
    return replace(kit, shards=(kit.shards[0], kit.shards[2]))


@pytest.fixture(scope="module")
def sound(small: Any, fast_disk: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "store.zarr"
    small.whole(folder, logits=False)
    return folder


@pytest.fixture(scope="module")
def store(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged") / "store.zarr"
    shutil.copytree(sound, folder)
    return folder


@pytest.fixture(scope="module")
def names(sound: Path) -> list[str]:
    return sorted(p.relative_to(sound).as_posix() for p in sound.rglob("*") if p.is_file())


@pytest.fixture
def damage(store: Path, sound: Path) -> Iterator[Callable[[str, bytes | None], None]]:
    """Replace an object's bytes, or remove it; everything is mended after the test."""
    touched: set[str] = set()

    def change(name: str, data: bytes | None) -> None:
        touched.add(name)
        if data is None:
            (store / name).unlink()
        else:
            (store / name).write_bytes(data)

    yield change
    for name in touched:
        (store / name).write_bytes((sound / name).read_bytes())


def expect_found(store: Path, what: str) -> None:
    try:
        read_everything(store)
    except StoreError as error:
        lines = str(error).split("\n")
    else:
        pytest.fail(f"nobody noticed: {what}")
    assert len(lines) == 1, what


def test_the_whole_store_reads(store: Path, names: list[str]) -> None:
    read_everything(store)
    assert {kind_of(name) for name in names} == {"metadata", "commit", "chunk", "0.json", "pass.json"}


@pytest.mark.parametrize("changes", [{"seed": 1}, {"policy": DecodePolicy(exif=False)}, {"classes": ("x", "y", "z")}])
def test_every_object_of_another_store_is_found(
    store: Path, names: list[str], damage: Any, small: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """The same shards and teachers, but another draw of rows, another decoding, or other class names."""
    small.whole(tmp_path / "other.zarr", logits=False, **changes)
    foreign = 0
    for name in names:
        data, mine = (tmp_path / "other.zarr" / name).read_bytes(), (store / name).read_bytes()
        if data != mine and not _says_the_same(name, data, mine):
            damage(name, data)
            expect_found(store, f"{name} of another store")
            damage(name, mine)
            foreign += 1
    assert foreign >= 2, "the root group and the manifest at least"


def _says_the_same(name: str, *versions: bytes) -> bool:
    """Two commits of two attempts on the same slot."""
    if kind_of(name) != "commit":
        return False
    first, second = (json.loads(version) for version in versions)
    return all(first[field] == second[field] for field in first if field not in {"attempt", "digest"})


def test_a_commit_that_differs_in_its_attempt_alone_is_as_good(
    store: Path, names: list[str], damage: Any, small: Any, tmp_path: Path
) -> None:
    small.whole(tmp_path / "other.zarr", logits=False)
    for name in names:
        if kind_of(name) == "commit":
            damage(name, (tmp_path / "other.zarr" / name).read_bytes())
    read_everything(store)


def test_rows_of_another_store_with_their_commits_but_another_decoding_are_found(
    store: Path, names: list[str], damage: Any, small: Any, tmp_path: Path
) -> None:
    """A folder that was copied from one store into another: everything in it fits together, but not to the images."""
    small.whole(tmp_path / "other.zarr", logits=False, policy=DecodePolicy(background=(0, 0, 0)), seed=1)
    for name in names:
        if name.startswith("teachers/") and kind_of(name) in {"commit", "chunk"}:
            damage(name, (tmp_path / "other.zarr" / name).read_bytes())
    with pytest.raises(StoreError, match="another decode policy"):
        read_everything(store)


def test_a_class_set_of_another_teacher_is_found(store: Path, names: list[str], damage: Any) -> None:
    """Its arrays and its digests moved along with it."""
    first, second = (open_store(store).teacher(teacher).teacher_id for teacher in TEACHERS)
    for name in names:
        if f"{second}/classes/n2-seed0/cls" in name:
            damage(name.replace(second, first), (store / name).read_bytes())
    with pytest.raises(StoreError, match="another class set, output or teacher"):
        read_everything(store)


def test_a_class_set_without_its_last_write_does_not_make_another_the_only_one(
    store: Path, names: list[str], damage: Any, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    view = open_store(copy).teacher("vit:Other")
    folder = copy / "teachers" / view.teacher_id / "classes"
    (folder / "n9-seed0" / "cls" / "mean").mkdir(parents=True)
    assert view.class_set(None, "cls").name == "n2-seed0", "folders alone are what remains of a set that was removed"
    (folder / "n9-seed0" / "cls" / "mean" / "zarr.json").write_bytes(b"begun")
    assert set_names(view, "cls") == ["n2-seed0"]
    with pytest.raises(Exception, match=r"known: n2-seed0, n9-seed0"):
        view.class_set(None, "cls")
    with pytest.raises(StoreError, match="lacks"):
        view.class_set("n9-seed0", "cls")
    assert view.class_set("n2-seed0", "cls").samples_per_class == 2


def test_a_forged_chunk_with_a_forged_commit_still_has_to_make_sense(store: Path, damage: Any) -> None:
    """Rows that are NaN where the status says that they are well, resealed by somebody who knows how."""
    view = open_store(store).teacher("vit:Other")
    schema = ArraySchema(f"teachers/{view.teacher_id}/cls", "float16", (24, 6), (8, 6))
    name = schema.chunk_key(0)
    rows = decode_chunk(schema, (store / name).read_bytes()).copy()
    rows[0] = np.nan
    forged = encode_chunk(schema, rows)
    (commit,) = (p.relative_to(store).as_posix() for p in store.glob(f"teachers/{view.teacher_id}/*/commits/0.json"))
    document = json.loads((store / commit).read_bytes())
    del document["digest"]
    document["objects"] = [
        ObjectRecord.of(name, forged).to_json() if entry["key"] == name else entry for entry in document["objects"]
    ]
    damage(name, forged)
    damage(commit, seal(document))
    with pytest.raises(StoreError, match="cls of slot 0 does not fit its status"):
        read_everything(store)


@pytest.mark.parametrize("kind", ["link to nothing", "folder", "pipe", "endless device"])
def test_what_is_no_file_is_never_waited_for(store: Path, names: list[str], tmp_path: Path, kind: str) -> None:
    for name in ("zarr.json", "manifest/0.json", next(n for n in names if kind_of(n) == "chunk")):
        copy = tmp_path / f"{kind_of(name)}.zarr"
        shutil.copytree(store, copy)
        (copy / name).unlink()
        if kind == "folder":
            (copy / name).mkdir()
        elif kind == "pipe":
            os.mkfifo(copy / name)
        else:
            (copy / name).symlink_to("/dev/zero" if kind == "endless device" else "/nowhere")
        with pytest.raises((StoreError, StorageError)):
            read_everything(copy)
