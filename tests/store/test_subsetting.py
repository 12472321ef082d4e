"""Subsets: what is kept is as it was and where it was; what is not has no values left."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkd.errors import StoreError, UnknownNameError
from embedkd.records import RowStatus, key_hash
from embedkd.storage import LocalStorage
from embedkd.store import Selection, labels_of, open_store, subset_store
from tests.store.conftest import _spec
from tests.store.faults import Death
from tests.store.samples import contents, files, make
from tests.store.test_merging import Progressing

SMALL, OTHER = _spec(), _spec("vit:Other", "1")
TEACHERS = {SMALL: (("cls", "pooled"),), OTHER: (("cls",),)}


@pytest.fixture(scope="module")
def whole(fast_disk: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subsets") / "s"
    make(folder, TEACHERS)
    return folder


def subset(whole: Path, folder: Path, selection: Selection, **options: Any) -> Any:
    return subset_store(LocalStorage(whole), LocalStorage(folder), selection, **options)


def test_a_subset_of_everything_is_everything(whole: Path, tmp_path: Path) -> None:
    report = subset(whole, tmp_path / "t", Selection())
    assert (report.shards, report.slots, report.rows, report.kept) == (5, 7, 35, 35)
    assert contents(open_store(tmp_path / "t")) == contents(open_store(whole))
    objects = {name: data for name, data in files(whole).items() if "/c/" in name}
    assert {name: data for name, data in files(tmp_path / "t").items() if "/c/" in name} == objects


def expect(whole: Path, folder: Path, selection: Selection) -> None:
    """Row by row, by the names that the samples were made with."""
    before, after = open_store(whole), open_store(folder)
    places = {(slot.shard.url, slot.start): slot for slot in before.slots}
    for teacher_id in before.teacher_ids:
        old, new = before.teacher(teacher_id), after.teacher(teacher_id)
        for slot in after.slots:
            origin = places[slot.shard.url, slot.start]
            for output in new.outputs:
                was, read = old.read(origin, output), new.read(slot, output)
                np.testing.assert_array_equal(read.keys, was.keys)
                np.testing.assert_array_equal(read.labels, was.labels)
                for row in range(slot.rows):
                    kept = (
                        (selection.labels is None or was.labels[row] in selection.labels)
                        and (selection.keys is None or int(was.keys[row]) in selection.keys)
                        and (selection.slots is None or origin.index in selection.slots)
                    )
                    assert read.status[row] == (was.status[row] if kept else RowStatus.DROPPED)
                    expected = was.rows[row] if kept else np.full_like(was.rows[row], np.nan)
                    np.testing.assert_array_equal(read.rows[row], expected)


def wanted(whole: Path, selection: Selection) -> int:
    """How many samples fit."""
    view = open_store(whole).teacher("vit:Other")
    reads = [(slot, view.read(slot, "cls")) for slot in view.store.slots]
    return sum(int(selection.mask(slot, read.keys, read.labels).sum()) for slot, read in reads)


KEYS = [
    key_hash(f"{url}/{i}") for url, n in (("train-0.tar", 11), ("train-1.tar", 5), ("val-2.tar", 3)) for i in range(n)
]


@given(
    st.none() | st.frozensets(st.sampled_from([0, 1, 2]), min_size=1),
    st.none() | st.frozensets(st.sampled_from(KEYS), min_size=1),
    st.none() | st.frozensets(st.sampled_from(range(7)), min_size=1),
)
@settings(max_examples=15)
def test_what_is_kept_is_as_it_was(
    whole: Path, labels: frozenset[int] | None, keys: frozenset[int] | None, slots: frozenset[int] | None
) -> None:
    selection = Selection(labels, keys, slots)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "t"
        if not wanted(whole, selection):
            with pytest.raises(StoreError, match="nothing of"):
                subset(whole, folder, selection)
            assert not folder.exists()
            return
        report = subset(whole, folder, selection)
        expect(whole, folder, selection)
        store = open_store(folder)
        assert report.shards == len(store.shards)
        counts = store.teacher("vit:Other").counts("cls")
        dropped = int(counts.bad.get("dropped", np.zeros(1)).sum())
        assert report.kept == report.rows - dropped
        for shard in store.shards:
            rows = [slot.index for slot in store.slots if slot.shard.url == shard.url]
            left = sum(store.slots[i].rows for i in rows) - sum(int(counts.bad["dropped"][i]) for i in rows if dropped)
            assert left or not shard.rows, "a shard of which nothing is kept is left out"


def test_commits_say_where_they_come_from(whole: Path, tmp_path: Path) -> None:
    subset(whole, tmp_path / "t", Selection(labels=frozenset({1})))
    view = open_store(tmp_path / "t").teacher("vit:Other")
    attempt = view.committed(view.store.slots[0], "cls").attempt
    assert (attempt["by"], attempt["kept"]) == ("subset", 3)
    assert attempt["from"][0]["store_uuid"] == open_store(whole).uuid


def test_a_second_time_writes_nothing_and_a_dry_run_never(whole: Path, tmp_path: Path) -> None:
    selection = Selection(labels=frozenset({0}))
    dry = subset(whole, tmp_path / "t", selection, dry_run=True)
    assert not (tmp_path / "t").exists()
    assert vars(dry) == vars(subset(whole, tmp_path / "t", selection))
    before = files(tmp_path / "t")
    again = subset(whole, tmp_path / "t", selection)
    assert (again.written, again.present) == (0, dry.written)
    assert files(tmp_path / "t") == before


def test_another_selection_at_the_same_place_is_refused(whole: Path, tmp_path: Path) -> None:
    subset(whole, tmp_path / "t", Selection(slots=frozenset({0, 1})))
    with pytest.raises(StoreError, match="use another --out"):
        subset(whole, tmp_path / "t", Selection(slots=frozenset({2})))


def test_a_subset_that_dies_anywhere_goes_on(whole: Path, tmp_path: Path) -> None:
    selection = Selection(labels=frozenset({0, 2}))
    subset(whole, tmp_path / "w", selection)
    deaths = 0
    while True:
        try:
            subset_store(LocalStorage(whole), Progressing(tmp_path / "t", 4), selection)
        except Death:
            deaths += 1
        else:
            break
    assert deaths > 15
    assert contents(open_store(tmp_path / "t")) == contents(open_store(tmp_path / "w"))


def test_holes_stay_holes_where_the_slots_are_named_and_are_refused_where_rows_are_needed(
    whole: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(whole, tmp_path / "s")
    for path in copy.glob("teachers/*/pass-*/commits/2.json"):
        path.unlink()
    with pytest.raises(StoreError, match=r"slot 2 \(train-1.tar\) has no rows yet"):
        subset(copy, tmp_path / "t", Selection(labels=frozenset({0})))
    subset(copy, tmp_path / "t", Selection(slots=frozenset({2, 3})))
    assert [slot.shard.url for slot in open_store(tmp_path / "t").teacher("vit:Other").holes("cls")] == ["train-1.tar"]


def test_classes_by_name_and_by_number(whole: Path) -> None:
    store = open_store(whole)
    assert labels_of(store, ["bee", "2"]) == {1, 2}
    for name in ("dog", "3", "-1", "²", ""):
        with pytest.raises(UnknownNameError, match="unknown class of"):
            labels_of(store, [name])
