"""Merging: what was made in parts is what would have been made at once."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkd.errors import ConflictError, IntegrityError, StoreError
from embedkd.records import DecodePolicy
from embedkd.storage import LocalStorage
from embedkd.store import average, merge_stores, open_store, seal_store, write_class_set
from tests.store.conftest import _spec
from tests.store.faults import Death, Mortal
from tests.store.samples import SHARDS, contents, files, make

SMALL, OTHER = _spec(), _spec("vit:Other", "1")
TEACHERS = {SMALL: (("cls", "pooled"),), OTHER: (("cls",),)}


def merged(folder: Path, *parts: Path, **options: Any) -> Any:
    return merge_stores([LocalStorage(part) for part in parts], LocalStorage(folder), **options)


@pytest.fixture(scope="module")
def halves(fast_disk: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("halves")
    make(folder / "a", TEACHERS, SHARDS[:3])
    make(folder / "b", TEACHERS, SHARDS[2:])
    return folder / "a", folder / "b"


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from(range(5)), min_size=1), st.sampled_from([2, 8, 16])), min_size=1, max_size=3
    ),
    st.sampled_from([None, 4, 8]),
)
@settings(max_examples=8)
def test_parts_make_the_whole(parts: list[tuple[set[int], int]], capacity: int | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (chosen, rows) in enumerate(parts):
            make(folder / str(number), {OTHER: (("cls",),)}, [SHARDS[i] for i in sorted(chosen)], rows)
        report = merged(folder / "m", *(folder / str(number) for number in range(len(parts))), capacity=capacity)
        store = open_store(folder / "m")
        shards = dict.fromkeys(
            shard for number in range(len(parts)) for shard in open_store(folder / str(number)).shards
        )
        assert store.shards == tuple(shards)
        assert store.capacity == report.capacity == (capacity or parts[0][1])
        whole = make(folder / "w", {OTHER: (("cls",),)}, list(shards), report.capacity)
        assert contents(store) == contents(whole)
        assert report.holes == 0
        objects = {name: data for name, data in files(folder / "w").items() if "/c/" in name}
        assert {name: data for name, data in files(folder / "m").items() if "/c/" in name} == objects


def test_commits_say_where_they_come_from(halves: tuple[Path, Path], tmp_path: Path) -> None:
    report = merged(tmp_path / "m", *halves)
    assert (report.shards, report.slots, report.written, report.holes) == (5, 7, 14, 0)
    view = open_store(tmp_path / "m").teacher("vit:Other")
    origins = [view.committed(slot, "cls").attempt for slot in view.store.slots]
    assert {attempt["by"] for attempt in origins} == {"merge"}
    uuids = [open_store(half).uuid for half in halves]
    assert [uuids.index(a["from"][0]["store_uuid"]) for a in origins] == [0, 0, 0, 0, 1, 1, 1]
    assert origins[5]["from"][0]["slot"] == 2
    assert origins[5]["from"][0]["attempt"]["system"] == "b"


def test_sealed_parts_are_as_good(halves: tuple[Path, Path], tmp_path: Path) -> None:
    for half in halves:
        seal_store(LocalStorage(shutil.copytree(half, tmp_path / half.name)))
    merged(tmp_path / "m", tmp_path / "a", tmp_path / "b")
    merged(tmp_path / "n", *halves)
    assert contents(open_store(tmp_path / "m")) == contents(open_store(tmp_path / "n"))


def test_what_a_part_lacks_another_has_and_the_rest_are_holes(halves: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = (shutil.copytree(half, tmp_path / half.name) for half in halves)
    for path in a.glob("teachers/vit-other-*/pass-*/commits/[03].json"):  # slot 3 is val-2.tar, which b has too
        path.unlink()
    report = merged(tmp_path / "m", a, b)
    assert report.holes == 1
    assert [slot.index for slot in open_store(tmp_path / "m").teacher("vit:Other").holes("cls")] == [0]
    assert merged(tmp_path / "m", *halves).written == 1


def test_a_second_merge_writes_nothing(halves: tuple[Path, Path], tmp_path: Path) -> None:
    merged(tmp_path / "m", *halves)
    before = files(tmp_path / "m")
    again = merged(tmp_path / "m", *halves)
    assert (again.written, again.present) == (0, 14)
    assert files(tmp_path / "m") == before


def test_a_dry_run_writes_nothing(halves: tuple[Path, Path], tmp_path: Path) -> None:
    dry = merged(tmp_path / "m", *halves, dry_run=True)
    assert not (tmp_path / "m").exists()
    assert vars(dry) == vars(merged(tmp_path / "m", *halves))


def test_a_merge_that_dies_anywhere_goes_on(halves: tuple[Path, Path], tmp_path: Path) -> None:
    """Killed again and again at its third new write."""
    merged(tmp_path / "w", *halves)
    deaths = 0
    while True:
        try:
            merge_stores([LocalStorage(half) for half in halves], Progressing(tmp_path / "m", 3))
        except Death:
            deaths += 1
        else:
            break
    assert deaths > 40
    assert contents(open_store(tmp_path / "m")) == contents(open_store(tmp_path / "w"))


class Progressing(Mortal):
    """Dies at its n-th write of something new; writes that find everything there do not count."""

    def __init__(self, root: Path, dies_at: int) -> None:
        super().__init__(root, [dies_at])

    def put_new(self, key: str, data: bytes) -> None:
        if self.exists(key):
            LocalStorage.put_new(self, key, data)
        super().put_new(key, data)


def test_class_sets_are_counted_and_left(halves: tuple[Path, Path], tmp_path: Path) -> None:
    a = shutil.copytree(halves[0], tmp_path / "a")
    view = open_store(a).teacher("vit:Other")
    write_class_set(view, "cls", average(view, "cls", samples_per_class=2, seed=0))
    assert merged(tmp_path / "m", a, halves[1]).class_sets == 1
    assert not list((tmp_path / "m").glob("teachers/*/classes"))


def test_other_rows_of_one_shard_are_a_conflict_that_names_both(halves: tuple[Path, Path], tmp_path: Path) -> None:
    make(tmp_path / "c", TEACHERS, SHARDS[2:3], capacity=16, noise=0.5)
    with pytest.raises(ConflictError, match=rf"other rows of val-2.tar in {tmp_path}/c than in {halves[0]}"):
        merged(tmp_path / "m", *halves, tmp_path / "c")
    assert not (tmp_path / "m").exists()


def test_rounding_is_no_conflict_and_the_first_part_wins(halves: tuple[Path, Path], tmp_path: Path) -> None:
    make(tmp_path / "c", TEACHERS, SHARDS[:1], noise=1e-4)
    merged(tmp_path / "m", halves[0], tmp_path / "c")
    assert contents(open_store(tmp_path / "m")) == contents(open_store(halves[0]))


@pytest.mark.parametrize("change", [{"rows": 4}, {"size_bytes": 99}, {"blake2b": "0" * 64}, {"split": "test"}])
def test_another_shard_of_the_same_name_is_a_conflict(
    halves: tuple[Path, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    make(tmp_path / "c", TEACHERS, [replace(SHARDS[2], **change)])
    with pytest.raises(ConflictError, match=rf"val-2.tar is another shard in {tmp_path}/c than in {halves[0]}"):
        merged(tmp_path / "m", *halves, tmp_path / "c")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": ("x",) * 3}, "other class names"),
        ({"policy": DecodePolicy(exif=False)}, "another decode policy"),
        ({"root": "data:elsewhere"}, "the parts remember their shards at"),
    ],
)
def test_parts_of_other_data_are_refused(
    halves: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    make(tmp_path / "c", TEACHERS, SHARDS[3:], **changes)
    with pytest.raises(StoreError, match=says):
        merged(tmp_path / "m", *halves, tmp_path / "c")
    assert not (tmp_path / "m").exists()


def test_the_place_of_the_data_can_be_said(halves: tuple[Path, Path], tmp_path: Path) -> None:
    make(tmp_path / "c", TEACHERS, SHARDS[3:], root="../data")
    merged(tmp_path / "m", *halves, tmp_path / "c", root=str(tmp_path / "shards"))
    assert open_store(tmp_path / "m").manifest.root == "../shards"


def test_one_place_that_is_written_in_two_ways_is_one_place(tmp_path: Path) -> None:
    make(tmp_path / "a", TEACHERS, SHARDS[:1], root="../data")
    make(tmp_path / "deep" / "c", TEACHERS, SHARDS[1:2], root="../../data")
    merged(tmp_path / "m" / "n" / "o", tmp_path / "a", tmp_path / "deep" / "c")
    assert open_store(tmp_path / "m" / "n" / "o").data_root == str(tmp_path / "data")


def test_nothing_broken_is_merged(halves: tuple[Path, Path], tmp_path: Path) -> None:
    a = shutil.copytree(halves[0], tmp_path / "a")
    chunk = next(a.glob("teachers/*/cls/c/1/0"))
    data = chunk.read_bytes()
    chunk.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    with pytest.raises(IntegrityError, match=r"differs from its recorded BLAKE2b|is not the one"):
        merged(tmp_path / "m", a, halves[1])


def test_documents_are_canonical(halves: tuple[Path, Path], tmp_path: Path) -> None:
    merged(tmp_path / "m", *halves, capacity=4)
    for path in (tmp_path / "m").rglob("*.json"):
        document = json.loads(path.read_bytes())
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert path.read_bytes() == text.encode()
