"""Class sets in a store: written once, found, and checked."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import ConfigError, FormatError, HoleError, IntegrityError, StoreError, UnknownNameError
from embedkd.store import ClassSet, TeacherView, average, open_store, set_names, write_class_set
from embedkd.store.documents import seal_group
from embedkd.store.schema import MAX_CLASSES


@pytest.fixture
def view(tmp_path: Path, whole_store: Path) -> TeacherView:
    shutil.copytree(whole_store, tmp_path / "s.zarr")
    return open_store(tmp_path / "s.zarr").teacher("vit:Small")


@pytest.fixture
def made(view: TeacherView) -> ClassSet:
    return average(view, "cls", samples_per_class=4, seed=3)


def _files(view: TeacherView) -> dict[str, bytes]:
    root = Path(view.store.storage.url)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_what_is_written_is_read(view: TeacherView, made: ClassSet) -> None:
    write_class_set(view, "cls", made)
    read = view.class_set("n4-seed3", "cls")
    for part in ("mean", "count", "spread"):
        np.testing.assert_array_equal(getattr(read, part), getattr(made, part))
        assert getattr(read, part).dtype == getattr(made, part).dtype
    assert (read.name, read.samples_per_class, read.seed, read.commits) == ("n4-seed3", 4, 3, made.commits)
    assert set_names(view, "cls") == ["n2-seed0", "n4-seed3"]
    assert set_names(view, "pooled") == ["n2-seed0"]
    assert set_names(view, "logits") == []


@pytest.mark.parametrize("how", [{"method": "median"}, {"method": "trimmed", "trim": 0.2}])
def test_how_it_was_made_is_kept(view: TeacherView, how: dict[str, Any]) -> None:
    made = average(view, "cls", samples_per_class=4, seed=3, **how)
    write_class_set(view, "cls", made)
    read = view.class_set(made.name, "cls")
    assert (read.method, read.trim) == (how["method"], how.get("trim"))
    np.testing.assert_array_equal(read.mean, made.mean)
    with pytest.raises(StoreError, match="is there with other content"):
        write_class_set(view, "cls", replace(made, method="mean", trim=None))


def test_writing_the_same_again_changes_nothing(view: TeacherView, made: ClassSet) -> None:
    write_class_set(view, "cls", made)
    before = _files(view)
    write_class_set(view, "cls", average(view, "cls", samples_per_class=4, seed=3))
    assert _files(view) == before


@pytest.mark.parametrize("part", ["mean", "count", "spread", "seed"])
def test_other_content_under_one_name_is_a_conflict(view: TeacherView, made: ClassSet, part: str) -> None:
    write_class_set(view, "cls", made)
    before = _files(view)
    other = {part: getattr(made, part) + 1}
    with pytest.raises(StoreError, match=r"class set 'n4-seed3' is there with other content .*another --name"):
        write_class_set(view, "cls", replace(made, **other))
    assert _files(view) == before


def test_a_writer_that_was_killed_is_followed_by_one_that_finishes(view: TeacherView, made: ClassSet) -> None:
    """The group's metadata is the last write: without it the set is not there, whatever else is."""
    write_class_set(view, "cls", made)
    whole, put = _files(view), view.store.storage.put_new
    (folder,) = Path(view.store.storage.url).glob(f"teachers/{view.teacher_id}/classes/n4-seed3/cls")
    for stop in range(7):
        shutil.rmtree(folder)
        puts = 0

        def stopping(key: str, data: bytes, stop: int = stop) -> None:
            nonlocal puts
            if "n4-seed3/cls/" in key:
                if puts == stop:
                    raise KeyboardInterrupt
                puts += 1
            put(key, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(view.store.storage, "put_new", stopping)
            with pytest.raises(KeyboardInterrupt):
                write_class_set(view, "cls", made)
        assert set_names(view, "cls") == ["n2-seed0"]
        with pytest.raises((IntegrityError, UnknownNameError)):
            view.class_set("n4-seed3", "cls")
        write_class_set(view, "cls", made)
        assert _files(view) == whole


def test_none_means_the_only_one(view: TeacherView, made: ClassSet) -> None:
    assert view.class_set(None, "cls").name == "n2-seed0"
    write_class_set(view, "cls", made)
    with pytest.raises(ConfigError, match=r"^cls has 2 class sets; .*--class-set .*known: n2-seed0, n4-seed3\)$"):
        view.class_set(None, "cls")
    with pytest.raises(UnknownNameError, match="did you mean n4-seed3"):
        view.class_set("n4-seed33", "cls")
    for name in (None, "n2-seed0"):
        with pytest.raises(HoleError, match=r"has no class set of logits; make one with embedkd average"):
            view.class_set(name, "logits")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "x" * 65, "x\0", ".hidden"])
def test_names_that_are_no_folder(view: TeacherView, made: ClassSet, name: str) -> None:
    before = _files(view)
    with pytest.raises(FormatError, match="class set name"):
        write_class_set(view, "cls", replace(made, name=name))
    with pytest.raises(UnknownNameError):
        view.class_set(name, "cls")
    assert _files(view) == before


def test_more_classes_than_the_format_holds(view: TeacherView, made: ClassSet) -> None:
    with pytest.raises(FormatError, match=f"expected 1 to {MAX_CLASSES} classes"):
        write_class_set(view, "cls", replace(made, count=np.zeros(MAX_CLASSES + 1, np.int64)))


def test_an_output_that_is_not_there(view: TeacherView, made: ClassSet) -> None:
    with pytest.raises(UnknownNameError, match="unknown output of vit:Small 'image'"):
        write_class_set(view, "image", made)


@pytest.mark.parametrize(
    "change",
    [
        {"count": np.array([1, 1, 1])},
        {"count": np.array([4, 0, 0])},
        {"count": np.array([4, 4, -1])},
        {"spread": np.full(3, np.nan, np.float32)},
    ],
)
def test_counts_that_do_not_fit_the_means(view: TeacherView, made: ClassSet, change: dict[str, Any]) -> None:
    write_class_set(view, "cls", replace(made, name="odd", **change))
    with pytest.raises(IntegrityError, match="the counts do not fit the means"):
        view.class_set("odd", "cls")


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts["arrays"]["mean"].update(key="../../etc/passwd"),
        lambda facts: facts["arrays"].pop("count"),
        lambda facts: facts["arrays"].update(spread=facts["arrays"]["count"]),
        lambda facts: facts.update(classes=10**9),
        lambda facts: facts.update(classes=0),
        lambda facts: facts.update(classes="3"),
        lambda facts: facts.update(output="pooled"),
        lambda facts: facts.update(samples_per_class=0),
        lambda facts: facts.update(seed=None),
        lambda facts: facts.update(commits="none"),
        lambda facts: facts.pop("set"),
        lambda facts: facts.pop("method"),
        lambda facts: facts.update(method="mode"),
        lambda facts: facts.update(trim=0.1),
        lambda facts: facts.update(method="trimmed"),
        lambda facts: facts.update(method="trimmed", trim=0.5),
        lambda facts: facts.update(method="trimmed", trim=True),
    ],
)
def test_forged_facts_are_refused(view: TeacherView, change: Any) -> None:
    root = Path(view.store.storage.url)
    path = root / "teachers" / view.teacher_id / "classes" / "n2-seed0" / "cls" / "zarr.json"
    facts = json.loads(path.read_bytes())["attributes"]["embedkd"]
    del facts["digest"]
    change(facts)
    path.write_bytes(seal_group(facts))
    with pytest.raises(StoreError) as caught:
        view.class_set("n2-seed0", "cls")
    assert "\n" not in str(caught.value)


def test_another_number_of_classes_than_the_manifest_names(view: TeacherView, made: ClassSet) -> None:
    write_class_set(
        view, "cls", replace(made, name="two", mean=made.mean[:2], count=made.count[:2], spread=made.spread[:2])
    )
    with pytest.raises(IntegrityError, match="has 2 classes, the manifest names 3"):
        view.class_set("two", "cls")
