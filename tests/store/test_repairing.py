"""Repair: whatever is broken becomes a hole that the same writer fills again; whatever is whole keeps its bytes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import IntegrityError
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, open_store, repair_store, seal_store
from embedkd.store.documents import seal
from tests.store.conftest import _spec
from tests.store.faults import disturbed
from tests.store.samples import files, make, rows_of

SMALL, OTHER = _spec(), _spec("vit:Other", "1")
TEACHERS = {SMALL: (("cls", "pooled"), ("logits",)), OTHER: (("cls",),)}


@pytest.fixture(scope="module", params=["plain", "sealed"])
def sound(fast_disk: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("repair") / "s"
    make(folder, TEACHERS)
    if request.param == "sealed":
        seal_store(LocalStorage(folder))
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "s"))


def complete(folder: Path) -> None:
    store = open_store(folder)
    for spec, passes in TEACHERS.items():
        for outputs in passes:
            writer = PassWriter(store, spec, Pass(outputs, 8, 1, "a processor"))
            for slot in store.slots:
                if not writer.is_committed(slot):
                    writer.write(slot, rows_of(slot, spec, outputs), {})


def read_all(folder: Path) -> list[bytes]:
    store = open_store(folder)
    views = [store.teacher(name) for name in store.teacher_ids]
    return [v.read(slot, output).rows.tobytes() for v in views for output in v.outputs for slot in store.slots]


def flip(path: Path, rng: np.random.Generator) -> None:
    data = path.read_bytes()
    at = int(rng.integers(len(data)))
    path.write_bytes(data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :])


def breakable(folder: Path) -> list[str]:
    """Objects of slots, and metadata that follows from the rest."""
    names = [name for name in files(folder) if "/c/" in name or "/commits/" in name]
    groups = ("zarr.json", "sealed/zarr.json")
    derived = [
        n for n in files(folder) if n.endswith("zarr.json") and n not in groups and b'"embedkd"' not in files(folder)[n]
    ]
    return sorted(names + derived)


def test_a_whole_store_is_left_as_it_is(folder: Path) -> None:
    before = files(folder)
    report = repair_store(LocalStorage(folder))
    assert not any(vars(report).values())
    assert files(folder) == before


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_what_is_broken_is_made_again(folder: Path, damage: str) -> None:
    expected, rows = files(folder), read_all(folder)
    rng = np.random.default_rng(7)
    for name in rng.permutation(breakable(folder))[:5].tolist():
        path = folder / name
        if damage == "flip":
            flip(path, rng)
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            path.unlink()
        dry, before = repair_store(LocalStorage(folder), dry_run=True), files(folder)
        report = repair_store(LocalStorage(folder))
        assert vars(dry) == vars(report)
        for key, data in files(folder).items():
            assert data == (expected[key] if key in report.metadata else before.get(key, data))
        assert all("sealed" in key for key in files(folder).keys() - before.keys() - {*report.metadata})
        gone = before.keys() - files(folder).keys()
        assert gone == {*report.commits, *report.objects}
        if not (damage == "remove" and "/commits/" in name):
            assert report.metadata or report.commits
        again = repair_store(LocalStorage(folder))
        assert not again.commits
        assert not again.objects
        complete(folder)
        assert read_all(folder) == rows
        found = files(folder)
        assert {n for n in found if "sealed" not in n} == {n for n in expected if "sealed" not in n}
        assert all(found[n] == data for n, data in expected.items() if "/c/" in n or n.endswith("zarr.json"))


def test_a_dry_run_blames_no_slot_for_metadata_that_would_be_restored(folder: Path) -> None:
    (folder / "rows/place/zarr.json").unlink()
    report = repair_store(LocalStorage(folder), dry_run=True)
    assert {name: found for name, found in vars(report).items() if found} == {"metadata": ["rows/place/zarr.json"]}


def test_what_two_teachers_share_is_dropped_with_the_commits_of_both(folder: Path) -> None:
    (folder / "rows/key/c/1").write_bytes(b"broken")
    report = repair_store(LocalStorage(folder))
    assert report.objects == ["rows/key/c/1"]
    assert len(report.commits) == 3
    assert all(name.endswith("commits/1.json") for name in report.commits)


def test_an_object_that_another_commit_rightly_vouches_for_stays(folder: Path) -> None:
    """A commit that was forged to name another rows/key: it goes, the object does not."""
    path = next(folder.glob("teachers/vit-other-*/pass-*/commits/1.json"))
    document = json.loads(path.read_bytes())
    del document["digest"]
    document["objects"][0]["blake2b"] = "0" * 64
    path.write_bytes(seal(document))
    report = repair_store(LocalStorage(folder))
    assert report.commits == [path.relative_to(folder).as_posix()]
    assert report.objects == []


def test_a_repair_that_dies_anywhere_goes_on(folder: Path, tmp_path: Path) -> None:
    rows = read_all(folder)
    rng = np.random.default_rng(1)
    for name in ("rows/label/c/0", *[n for n in breakable(folder) if n.endswith("commits/3.json")][:1]):
        flip(folder / name, rng)
    deaths = 0
    for copy in disturbed(folder, tmp_path, repair_store):
        deaths += 1
        repair_store(LocalStorage(copy))
        if deaths % 3 == 0:
            complete(copy)
            assert read_all(copy) == rows
        assert not repair_store(LocalStorage(copy), dry_run=True).problems
    assert deaths >= 5


def test_rows_that_make_no_sense_are_dropped(folder: Path) -> None:
    """A commit that counts other rows than its objects hold, sealed by somebody who knows how."""
    if (folder / "sealed").exists():
        return
    path = next(folder.glob("teachers/vit-other-*/pass-*/commits/1.json"))
    document = json.loads(path.read_bytes())
    del document["digest"]
    document["ok"]["cls"] -= 1
    document["bad"]["cls"]["dropped"] = 1
    counts = document["error"]["cls"]["histogram"]
    counts[next(at for at, count in enumerate(counts) if count)] -= 1
    path.write_bytes(seal(document))
    report = repair_store(LocalStorage(folder))
    assert len(report.objects) == 2
    complete(folder)
    assert len(read_all(folder)) == 4 * 7


@pytest.mark.parametrize(
    "name", ["zarr.json", "manifest/0.json", "teachers/*/zarr.json", "teachers/*/pass-*/pass.json"]
)
def test_what_nothing_else_says_cannot_be_repaired(folder: Path, name: str) -> None:
    path = next(folder.glob(name))
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    before = files(folder)
    with pytest.raises(Exception, match=r"restore|JSON|digest") as caught:
        repair_store(LocalStorage(folder))
    assert "\n" not in str(caught.value)
    assert files(folder) == before


def test_a_seal_without_its_commits_still_serves(sound: Path, folder: Path) -> None:
    if not (folder / "sealed").exists():
        return
    for path in folder.glob("teachers/*/pass-*/commits/*"):
        path.unlink()
    rows = read_all(folder)
    assert vars(repair_store(LocalStorage(folder)))["commits"] == []
    assert read_all(folder) == rows
    next(folder.glob("teachers/vit-other-*/cls/c/0/0")).write_bytes(b"")
    repair_store(LocalStorage(folder))
    assert [slot.index for slot in open_store(folder).teacher("vit:Other").holes("cls")] == [0]
    with pytest.raises(IntegrityError):
        seal_without_index(folder)


def seal_without_index(folder: Path) -> Any:
    next(folder.glob("teachers/vit-other-*/pass-*/sealed/1.json")).unlink()
    return read_all(folder)
