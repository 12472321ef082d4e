"""Stored views are teachers of their own: every operation on a store treats them so, and people see them together."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import ConfigError, FormatError, UnknownNameError
from embedkd.precompute import describe_store
from embedkd.records import ViewSpec, key_hash
from embedkd.sources.views import find_crop
from embedkd.storage import LocalStorage
from embedkd.store import (
    Pass,
    PassWriter,
    Selection,
    append_shards,
    average,
    card,
    check_objects,
    check_output,
    copy_store,
    diff_stores,
    merge_stores,
    open_store,
    repair_store,
    seal_store,
    subset_store,
    write_class_set,
)
from embedkd.store.documents import Fields, seal_group
from embedkd.store.siblings import view_groups
from embedkd.store.specification import read_specification
from tests.store.conftest import _spec
from tests.store.samples import SHARDS, contents, files, make, rows_of

PLAIN, OTHER = _spec(), _spec("vit:Other", "1")
SEEN = [replace(PLAIN, view=ViewSpec(seed, index, 0.35, 0.5)) for seed, index in ((0, 0), (0, 1), (3, 0))]
TEACHERS = {PLAIN: (("cls", "pooled"),), **dict.fromkeys(SEEN, (("cls",),))}


@pytest.fixture(scope="module")
def sound(fast_disk: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, two views of one seed and one of another, and class means of whole images."""
    folder = tmp_path_factory.mktemp("views") / "s"
    view = make(folder, TEACHERS).teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=2, seed=0))
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "s"))


def problems(folder: Path) -> list[str]:
    store = open_store(folder)
    views = [store.teacher(name) for name in store.teacher_ids]
    found = [p for v in views for output in v.outputs for p in check_output(v, output, lambda: None).problems]
    return [*found, *check_objects(store, lambda: None)]


def test_the_teacher_is_the_one_that_saw_whole_images(sound: Path) -> None:
    store = open_store(sound)
    ids = [spec.teacher_id for spec in SEEN]
    assert len(store.teacher_ids) == 4
    for name in (None, PLAIN.name, "vit:", "vit-small", PLAIN.teacher_id):
        assert store.teacher(name).spec == PLAIN
    assert store.views_of(PLAIN.teacher_id) == tuple(ids)
    assert store.views_of(ids[2]) == tuple(ids)
    assert store.teacher(ids[1]).spec == SEEN[1]
    assert list(store.outputs) == ["cls", "pooled"]
    assert store.classes().samples_per_class == 2
    with pytest.raises(UnknownNameError, match=r"unknown teacher of .* 'vit:Small'"):
        store.views_of("vit:Small")


def test_views_without_their_teacher_are_teachers_to_choose_from(fast_disk: None, tmp_path: Path) -> None:
    store = make(tmp_path / "s", dict.fromkeys(SEEN[:2], (("cls",),)), SHARDS[:1])
    with pytest.raises(ConfigError, match="has 2 teachers; name one"):
        store.teacher()
    assert store.views_of(SEEN[0].teacher_id) == tuple(spec.teacher_id for spec in SEEN[:2])
    assert {entry["name"] for entry in describe_store(str(tmp_path / "s"))["teachers"]} == {
        "vit:Small (view 0)",
        "vit:Small (view 1)",
    }


def test_another_teacher_is_still_to_be_chosen_and_has_no_views(fast_disk: None, tmp_path: Path) -> None:
    int8 = PLAIN.encoded({"cls": "int8"})
    store = make(tmp_path / "s", {PLAIN: (("cls",),), SEEN[0]: (("cls",),), int8: (("cls",),)}, SHARDS[:1])
    with pytest.raises(ConfigError, match=r"has 2 teachers called 'vit:Small\.\.\.'; name one") as caught:
        store.teacher("vit:Small")
    assert SEEN[0].teacher_id not in str(caught.value)
    assert store.views_of(int8.teacher_id) == ()


def test_views_are_sealed_and_verified_with_the_rest(folder: Path) -> None:
    assert problems(folder) == []
    report = seal_store(LocalStorage(folder))
    assert {name: sum(runs.values()) for name, runs in report.passes.items()} == dict.fromkeys(
        open_store(folder).teacher_ids, 7
    )
    assert problems(folder) == []
    assert not seal_store(LocalStorage(folder)).new


class Listed(LocalStorage):
    """Remembers what was listed."""

    def list_names(self, prefix: str) -> list[str]:
        self.seen = [*getattr(self, "seen", []), prefix]
        return super().list_names(prefix)


def test_a_sealed_store_asks_once_which_teachers_there_are(folder: Path) -> None:
    seal_store(LocalStorage(folder))
    storage = Listed(folder)
    assert len(open_store(storage).teacher_ids) == 4
    assert [name for name in storage.seen if name.startswith("teachers")] == ["teachers"]


def test_a_copy_has_every_view(sound: Path, tmp_path: Path) -> None:
    copy_store(LocalStorage(sound), LocalStorage(tmp_path / "c"))
    assert files(tmp_path / "c") == files(sound)


def test_parts_and_subsets_keep_each_view_s_rows(sound: Path, tmp_path: Path) -> None:
    parts = [tmp_path / "a", tmp_path / "b"]
    for part, shards in zip(parts, (SHARDS[:2], SHARDS[2:]), strict=True):
        make(part, TEACHERS, shards)
    merge_stores([LocalStorage(part) for part in parts], LocalStorage(tmp_path / "m"))
    assert contents(open_store(tmp_path / "m")) == contents(open_store(sound))
    subset_store(LocalStorage(sound), LocalStorage(tmp_path / "t"), Selection(labels=frozenset({1})))
    store, whole = open_store(tmp_path / "t"), open_store(sound)
    assert store.views_of(PLAIN.teacher_id) == whole.views_of(PLAIN.teacher_id)
    for name in store.views_of(PLAIN.teacher_id):
        read, was = store.read(0, "cls", teacher=name), whole.read(0, "cls", teacher=name)
        kept = read.status == 1
        assert (read.labels[kept] == 1).all()
        assert kept.sum() > 0
        assert (read.rows[kept] == was.rows[kept]).all()


def test_the_part_that_a_view_shows_survives_merge_and_subset(sound: Path, tmp_path: Path) -> None:
    """It follows from what every store keeps: the view's specification and the hash of the key."""
    subset_store(LocalStorage(sound), LocalStorage(tmp_path / "t"), Selection(slots=frozenset({2})))
    made = []
    for store, slot in ((open_store(sound), 2), (open_store(tmp_path / "t"), 0)):
        view = store.teacher(SEEN[1].teacher_id)
        assert view.spec.view is not None
        made.append([find_crop((90, 60), view.spec.view, int(k)) for k in view.read(slot, "cls").keys])
    assert made[0] == made[1]
    assert SEEN[1].view is not None
    assert made[0][0] == find_crop((90, 60), SEEN[1].view, key_hash(f"{SHARDS[1].url}/0"))


def test_appended_shards_are_holes_of_every_view_until_computed(fast_disk: None, tmp_path: Path) -> None:
    make(tmp_path / "s", TEACHERS, SHARDS[:4])
    append_shards(LocalStorage(tmp_path / "s"), SHARDS[4:])
    store = open_store(tmp_path / "s")
    for spec, (outputs,) in TEACHERS.items():
        assert len(store.teacher(spec.teacher_id).holes("cls")) == 2
        writer = PassWriter(store, spec, Pass(outputs, 8, 1, "a processor"))
        for slot in store.slots[5:]:
            writer.write(slot, rows_of(slot, spec, outputs), {})
    make(tmp_path / "w", TEACHERS)
    assert contents(open_store(tmp_path / "s")) == contents(open_store(tmp_path / "w"))


def test_one_broken_view_is_repaired_alone(folder: Path) -> None:
    broken = folder / f"teachers/{SEEN[1].teacher_id}/cls/c/0/0"
    data = broken.read_bytes()
    broken.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    assert len(problems(folder)) == 2
    report = repair_store(LocalStorage(folder))
    assert [SEEN[1].teacher_id in name for name in (*report.commits, *report.objects)] == [True, True]
    store = open_store(folder)
    holes = {spec.view: len(store.teacher(spec.teacher_id).holes("cls")) for spec in TEACHERS}
    assert holes == {PLAIN.view: 0, SEEN[0].view: 0, SEEN[1].view: 1, SEEN[2].view: 0}
    PassWriter(store, SEEN[1], Pass(("cls",), 8, 1, "a processor")).write(
        store.slots[0], rows_of(store.slots[0], SEEN[1], ("cls",)), {}
    )
    assert problems(folder) == []
    assert broken.read_bytes() == data


def test_stores_differ_by_the_views_that_one_lacks(sound: Path, fast_disk: None, tmp_path: Path) -> None:
    make(tmp_path / "s", {PLAIN: (("cls", "pooled"),), SEEN[0]: (("cls",),)})
    found = diff_stores(LocalStorage(sound), LocalStorage(tmp_path / "s"))
    assert found.only_teachers == (tuple(sorted(spec.teacher_id for spec in SEEN[1:])), ())
    assert [(output.output, output.rows == output.equal) for output in found.outputs] == [("cls", True)] * 2 + [
        ("pooled", True)
    ]


def test_people_see_views_of_a_kind_in_one_line(sound: Path) -> None:
    (entry,) = describe_store(str(sound))["teachers"]
    assert (entry["id"], len(entry["views"])) == (PLAIN.teacher_id, 2)
    first, second = entry["views"]
    assert (first["seed"], first["indices"], first["ids"]) == (0, [0, 1], [spec.teacher_id for spec in SEEN[:2]])
    assert (first["min_crop_area"], first["flip"], second["seed"], second["indices"]) == (0.35, 0.5, 3, [0])
    assert [(o["name"], o["committed"], o["usable"]) for o in first["outputs"]] == [("cls", 14, 58)]
    text = card(open_store(sound))
    assert text.count("## Teacher ") == 1
    assert "| stored views | 2 of seed 0, crops from 0\\.35 of the area, mirrored with probability 0\\.5 |" in text
    assert "| `cls` of 2 views | 6 | float16 | 14 of 14 | 58 | 12 decode error |" in text
    assert "--set train.teacher" not in text


def test_views_that_are_not_the_first_are_named() -> None:
    teachers = {spec.teacher_id: spec for spec in (PLAIN, SEEN[1])}
    (group,) = view_groups(teachers, PLAIN.teacher_id)
    assert str(group).startswith("1 (1) of seed 0, crops from 0.35")


@pytest.mark.parametrize(
    "view",
    [
        None,
        [],
        {},
        {"seed": 0, "index": 0, "min_crop_area": 0.35},
        {"seed": 0, "index": 0, "min_crop_area": 0.35, "flip": 0.5, "tilt": 0.0},
        *({"seed": 0, "index": 0, "min_crop_area": 0.35, "flip": 0.5, **wrong} for wrong in (
            {"seed": -1}, {"seed": 1 << 63}, {"seed": 1.0}, {"index": -1}, {"index": 1 << 16}, {"index": True},
            {"min_crop_area": 0.0}, {"min_crop_area": 0}, {"min_crop_area": -0.1}, {"min_crop_area": 1.01},
            {"min_crop_area": "1"}, {"min_crop_area": 10**400}, {"flip": -0.01}, {"flip": 1.5}, {"flip": None},
        )),
    ],
)  # fmt: skip
def test_a_view_that_makes_no_sense_is_refused(view: Any) -> None:
    document = {**PLAIN.to_json(), "view": view}
    with pytest.raises(FormatError):
        read_specification(Fields(json.loads(json.dumps(document)), "here"))


def test_a_view_at_its_bounds_is_read(fast_disk: None, tmp_path: Path) -> None:
    widest = replace(PLAIN, view=ViewSpec((1 << 63) - 1, (1 << 16) - 1, 1.0, 0.0))
    store = make(tmp_path / "s", {widest: (("cls",),)}, SHARDS[:1])
    assert store.teacher().spec == widest
    group = (tmp_path / "s" / "teachers" / widest.teacher_id / "zarr.json").read_bytes()
    assert group == seal_group({"format": 1, "spec": widest.to_json(), "fingerprint": widest.fingerprint})
    assert np.isfinite(store.read(0, "cls").rows[0]).all()
