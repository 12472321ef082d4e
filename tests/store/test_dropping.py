"""Repair of class sets and heads: what is broken goes as a whole and can be made again; what is whole stays."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from embedkd.errors import HoleError
from embedkd.storage import LocalStorage
from embedkd.store import (
    ClassSet,
    TeacherView,
    average,
    check_objects,
    check_output,
    copy_store,
    open_store,
    repair_store,
    seal_store,
    set_names,
    write_card,
    write_class_set,
)
from embedkd.store.classes import averaged_outputs, prompts_digest
from embedkd.store.heads import Head, head_names, write_head
from tests.store.conftest import Kit, _spec
from tests.store.faults import disturbed
from tests.store.samples import SHARDS, files, make

TEACHER = _spec()


def _head(name: str) -> Head:
    rng = np.random.default_rng(0)
    return Head(
        name=name,
        kind="linear",
        output="cls",
        weight=rng.normal(size=(3, 3, 6)).astype(np.float32),
        bias=rng.normal(size=(3, 3)).astype(np.float32),
        normalise=False,
        folds=2,
        seed=0,
        l2=0.5,
        made_from="e" * 64,
    )


def _fit(view: TeacherView) -> None:
    """Class sets of two outputs, one of texts, and two heads."""
    for output in ("cls", "pooled"):
        write_class_set(view, output, average(view, output, samples_per_class=2, seed=0))
    assert view.store.class_names is not None
    write_class_set(view, "logits", _texts(("a {}",), view.store.class_names))
    for name in ("first", "second"):
        write_head(view, _head(name))


def _texts(prompts: tuple[str, ...], names: tuple[str, ...]) -> ClassSet:
    shape = (len(names), 4)
    return ClassSet(
        "prompts",
        np.ones(shape, np.float32),
        np.ones(len(names), np.int64),
        np.zeros(len(names), np.float32),
        1,
        0,
        prompts_digest(prompts, names),
        prompts,
    )


@pytest.fixture(scope="module", params=["plain", "sealed"])
def sound(fast_disk: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("dropping") / "s"
    _fit(make(folder, {TEACHER: (("cls", "pooled"),)}, SHARDS[:1], capacity=16).teacher())
    if request.param == "sealed":
        seal_store(LocalStorage(folder))
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "s"))


def _of_parts(folder: Path) -> list[str]:
    """Objects of class sets and heads, but for groups that several share."""
    found = [name for name in files(folder) if "/classes/" in name or "/heads/" in name]
    return [name for name in found if files(folder)[name] != b'{"attributes":{},"node_type":"group","zarr_format":3}']


def _part_of(name: str) -> str:
    parts = name.split("/")
    return "/".join(parts[: 5 if parts[2] == "classes" else 4])


def _is_whole(folder: Path) -> bool:
    store = open_store(folder)
    return not check_objects(store) and not any(
        check_output(store.teacher(), output).problems for output in store.teacher().outputs
    )


def test_what_is_broken_goes_and_is_made_again(sound: Path, tmp_path: Path) -> None:
    """Every second object of all class sets and heads, in a sealed store the others; changed and removed in turn."""
    sealed = (sound / "sealed").exists()
    for at, name in enumerate(_of_parts(sound)[sealed::2]):
        folder = Path(shutil.copytree(sound, tmp_path / str(at)))
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / name).unlink()
        if at % 2:
            (folder / name).write_bytes(data)
        before, part = files(folder), _part_of(name)
        report = repair_store(LocalStorage(folder))
        assert [problem.split(":")[0] for problem in report.problems] == [part]
        gone = before.keys() - files(folder).keys()
        assert gone == set(report.parts) == {key for key in before if key.startswith(f"{part}/")}
        assert not report.commits + report.objects + report.metadata
        assert _is_whole(folder), name
        _fit(open_store(folder).teacher())
        assert {key: data for key, data in files(folder).items() if "sealed" not in key} == {
            key: data for key, data in files(sound).items() if "sealed" not in key
        }


def test_a_dry_run_says_the_same_and_removes_nothing(folder: Path) -> None:
    path = folder / next(name for name in _of_parts(folder) if name.endswith("mean/c/0/0"))
    path.write_bytes(path.read_bytes()[:-1])
    before = files(folder)
    dry = repair_store(LocalStorage(folder), dry_run=True)
    assert files(folder) == before
    assert vars(dry) == vars(repair_store(LocalStorage(folder)))


def test_what_a_killed_writer_left_goes_too(folder: Path) -> None:
    """It would stand in the way of "the only one"."""
    view = open_store(folder).teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=1, seed=9))
    (folder / "teachers" / view.teacher_id / "classes/n1-seed9/cls/zarr.json").unlink()
    assert len(repair_store(LocalStorage(folder)).parts) == 6
    assert open_store(folder).classes(output="cls").name == "n2-seed0"


def test_one_bad_answer_drops_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was cut on its way here is whole where it lies."""
    cut: set[str] = set()
    get = LocalStorage.get

    def cutting(self: LocalStorage, key: str, *, limit_bytes: int | None = None) -> bytes:
        data = get(self, key, limit_bytes=limit_bytes)
        if ("/classes/" in key or "/heads/" in key) and key not in cut:
            cut.add(key)
            return data[:-1]
        return data

    before = files(folder)
    for name in _of_parts(folder):  # each alone is answered badly once
        cut.clear()
        cut.update(key for key in before if key != name)
        with monkeypatch.context() as patch:
            patch.setattr(LocalStorage, "get", cutting)
            assert repair_store(LocalStorage(folder)).parts == []
        assert name in cut
    assert files(folder) == before


def test_a_repair_that_was_killed_is_followed_by_one_that_finishes(sound: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(sound, tmp_path / "broken"))
    for name in _of_parts(broken):
        if name.endswith(("first/weight/c/0/0/0", "n2-seed0/cls/count/c/0")):
            (broken / name).write_bytes(b"")
    deaths = 0
    for folder in disturbed(broken, tmp_path, repair_store):
        deaths += 1
        repair_store(LocalStorage(folder))
        assert _is_whole(folder)
        view = open_store(folder).teacher()
        assert set_names(view, "pooled") == ["n2-seed0"], "what is whole stays"
        assert head_names(view) == ["second"]
        assert set_names(view, "cls") == []
    assert deaths >= 10


def test_class_texts_of_a_teacher_without_rows_of_text_belong_to_the_store(folder: Path, tmp_path: Path) -> None:
    """A copy, a seal and a card have them, and their damage is found."""
    view = open_store(folder).teacher()
    assert "logits" not in view.outputs
    assert averaged_outputs(view) == ["cls", "logits", "pooled"]
    copy_store(LocalStorage(folder), LocalStorage(tmp_path / "copy"))
    copied = open_store(tmp_path / "copy").teacher()
    assert copied.class_set("prompts", "logits").prompts == ("a {}",)
    seal_store(LocalStorage(folder))
    catalogue = open_store(folder).catalogue
    assert catalogue is not None
    assert set(catalogue.teachers[view.teacher_id].classes["prompts"]) == {"logits"}
    assert "`prompts`" in write_card(LocalStorage(folder), dry_run=True)
    mean = folder / "teachers" / view.teacher_id / "classes/prompts/logits/mean/c/0/0"
    mean.write_bytes(mean.read_bytes()[:-1])
    assert any("prompts" in problem for problem in check_objects(open_store(folder)))


def test_a_store_whose_only_class_set_was_dropped_says_so(tmp_path: Path, kit: Kit) -> None:
    store = kit.create(tmp_path / "s")
    kit.fill(store, kit.spec(), ("cls",))
    view = open_store(tmp_path / "s").teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=2, seed=0))
    next((tmp_path / "s").glob("teachers/*/classes/*/cls/zarr.json")).write_bytes(b"{}")
    repair_store(LocalStorage(tmp_path / "s"))
    with pytest.raises(HoleError, match="has no class set; make one with embedkd average"):
        open_store(tmp_path / "s").classes()
