"""Copies: the same objects, checked twice, never half and never mixed, however often they are interrupted."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import ConflictError, FormatError, IntegrityError, ListingError, StoreError
from embedkd.records import Shard
from embedkd.storage import LocalStorage, Storage, open_storage
from embedkd.store import (
    Selection,
    append_shards,
    average,
    copy_store,
    diff_stores,
    merge_stores,
    open_store,
    repair_store,
    seal_store,
    subset_store,
    write_card,
    write_class_set,
)
from embedkd.store.inventory import inventory, parts
from tests.store.conftest import _spec
from tests.store.faults import Death, Mortal
from tests.store.samples import contents, make

NEW = (Shard("train-2.tar", "train", 4_096, 10, "e" * 64),)


class Unlistable(LocalStorage):
    def list_names(self, prefix: str) -> list[str]:
        raise ListingError(f"cannot list {prefix}")


@pytest.fixture(scope="module", params=["plain", "sealed", "sealed and appended"])
def sound(whole_store: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "s.zarr"
    shutil.copytree(whole_store, folder)
    if request.param != "plain":
        seal_store(LocalStorage(folder))
    if request.param == "sealed and appended":
        append_shards(LocalStorage(folder), NEW)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_inventory_names_every_object_once(sound: Path) -> None:
    (sound / "stray.txt").write_text("not of the store")
    keys = [item.key for item in inventory(open_store(sound))]
    (sound / "stray.txt").unlink()
    assert len(keys) == len(set(keys))
    assert set(keys) == set(files(sound))
    assert {part.kind for part in parts(open_store(sound))} >= {"frame", "slot", "class set", "manifest"}


def test_a_copy_is_the_same_store(sound: Path, tmp_path: Path) -> None:
    (sound / "stray.txt").write_text("not of the store")
    report = copy_store(LocalStorage(sound), LocalStorage(tmp_path / "t"))
    (sound / "stray.txt").unlink()
    assert files(tmp_path / "t") == files(sound)
    assert report.objects == len(files(sound))
    assert report.bytes == sum(map(len, files(sound).values()))


def test_a_second_copy_copies_nothing(sound: Path, tmp_path: Path) -> None:
    copy_store(LocalStorage(sound), LocalStorage(tmp_path / "t"))
    again = copy_store(LocalStorage(sound), LocalStorage(tmp_path / "t"))
    assert (again.objects, again.bytes) == (0, 0)
    assert again.present >= len(files(sound))


def test_a_dry_run_counts_and_writes_nothing(sound: Path, tmp_path: Path) -> None:
    dry = copy_store(LocalStorage(sound), LocalStorage(tmp_path / "t"), dry_run=True)
    assert not (tmp_path / "t").exists()
    assert dry.objects >= len(files(sound))


def test_a_copy_that_dies_anywhere_is_no_store_until_it_is_whole(sound: Path, tmp_path: Path) -> None:
    """One folder, killed at its second new write again and again, so every prefix of the copy is looked at."""
    expected, folder, deaths = files(sound), tmp_path / "t", 0
    step = 2 if (sound / "manifest/1.json").exists() else 9  # of one store every prefix, of the others some
    while True:
        try:
            copy_store(LocalStorage(sound), Mortal(folder, [step]))
        except Death:
            deaths += 1
        else:
            break
        if folder.exists():
            there = files(folder)
            assert there.items() <= expected.items()
            if any(name.startswith("manifest/") and name != "manifest/zarr.json" for name in there):
                assert not {
                    name for name in expected.keys() - there.keys() if not name.startswith(("manifest", "sealed/"))
                }
                assert open_store(folder).manifest == open_store(sound).manifest
            else:
                with pytest.raises((FormatError, StoreError)):
                    open_store(folder)
    assert files(folder) == expected
    assert deaths == (len(expected) - 1) // (step - 1)


def test_what_was_added_is_copied_next(sound: Path, tmp_path: Path, kit: Any) -> None:
    source = Path(shutil.copytree(sound, tmp_path / "s"))
    copy_store(LocalStorage(source), LocalStorage(tmp_path / "t"))
    append_shards(LocalStorage(source), (Shard("train-9.tar", "train", 1_024, 2, "9" * 64),))
    view = open_store(source).teacher("vit:Other")
    if not view.holes("cls"):
        write_class_set(view, "cls", average(view, "cls", samples_per_class=1, seed=5))
    seal_store(LocalStorage(source))
    report = copy_store(LocalStorage(source), LocalStorage(tmp_path / "t"))
    assert files(tmp_path / "t") == files(source)
    assert 0 < report.objects < len(files(source)) / 2


def test_a_source_that_cannot_be_listed(sound: Path, tmp_path: Path) -> None:
    if not (sound / "sealed").exists():
        with pytest.raises(ListingError):
            copy_store(Unlistable(sound), LocalStorage(tmp_path / "t"))
        return
    copy_store(Unlistable(sound), LocalStorage(tmp_path / "t"))
    newest = open_store(tmp_path / "t").manifest.generation
    there = files(tmp_path / "t")
    left_out = {name for name in files(sound) if name not in there}
    assert left_out <= {"manifest/1.json"}, "what was appended after the seal cannot be seen from there"
    assert newest == (0 if left_out else newest)


def test_to_an_object_store_and_back(sound: Path, tmp_path: Path) -> None:
    remote = open_storage(f"memory://copy-{tmp_path.name}")
    copy_store(LocalStorage(sound), remote)
    copy_store(remote, LocalStorage(tmp_path / "back"))
    assert files(tmp_path / "back") == files(sound)


def test_another_store_at_the_target_is_left_alone(sound: Path, tmp_path: Path, kit: Any) -> None:
    kit.whole(tmp_path / "t")
    before = files(tmp_path / "t")
    with pytest.raises(ConflictError, match=r"another zarr.json .* no copy of it"):
        copy_store(LocalStorage(sound), LocalStorage(tmp_path / "t"))
    assert files(tmp_path / "t") == before


def test_two_copies_that_went_on_by_themselves_are_not_mixed(whole_store: Path, tmp_path: Path) -> None:
    for name, url in (("s", "train-8.tar"), ("t", "train-9.tar")):
        shutil.copytree(whole_store, tmp_path / name)
        append_shards(LocalStorage(tmp_path / name), (Shard(url, "train", 1_024, 2, "9" * 64),))
    before = files(tmp_path / "t")
    with pytest.raises(ConflictError, match=r"another manifest/1.json"):
        copy_store(LocalStorage(tmp_path / "s"), LocalStorage(tmp_path / "t"))
    assert files(tmp_path / "t") == before


def test_nothing_broken_is_copied(whole_store: Path, tmp_path: Path) -> None:
    """A bit of every object, one after the other; whatever was copied by then is as it was."""
    folder = Path(shutil.copytree(whole_store, tmp_path / "s"))
    expected = files(folder)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(sorted(expected))[:15].tolist()
    for number, name in enumerate(chosen):
        data = expected[name]
        at = int(rng.integers(len(data)))
        (folder / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        target = tmp_path / f"t{number}"
        with pytest.raises(StoreError):
            copy_store(LocalStorage(folder), LocalStorage(target))
        assert not (target / "manifest/0.json").exists()
        assert (files(target) if target.exists() else {}).items() <= expected.items()
        (folder / name).write_bytes(data)
        shutil.rmtree(target, ignore_errors=True)


def tampered(change: Callable[[bytes], bytes]) -> type[LocalStorage]:
    class Tampering(LocalStorage):
        def put_new(self, key: str, data: bytes) -> None:
            super().put_new(key, change(data) if key.endswith("cls/c/1/0") else data)

    return Tampering


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b"\0" + d[1:]])
def test_what_does_not_arrive_as_it_was_sent_is_found(whole_store: Path, tmp_path: Path, change: Any) -> None:
    with pytest.raises(IntegrityError, match=r"holds something else as teachers/.*/cls/c/1/0 than was sent"):
        copy_store(LocalStorage(whole_store), tampered(change)(tmp_path / "t"))
    with pytest.raises(ConflictError, match=r"has another teachers/.*/cls/c/1/0; remove it"):
        copy_store(LocalStorage(whole_store), LocalStorage(tmp_path / "t"))


def test_every_operation_works_on_an_object_store(tmp_path: Path) -> None:
    """What it does there is what it does in a folder, but for ids and times."""
    spec = _spec("vit:Other", "1")
    make(tmp_path / "s", {spec: (("cls",),)})
    places: list[Storage] = [LocalStorage(tmp_path / "t"), open_storage(f"memory://operations-{tmp_path.name}")]
    found = []
    for number, place in enumerate(places):
        copy_store(LocalStorage(tmp_path / "s"), place)
        append_shards(place, NEW)
        seal_store(place)
        store = open_store(place)
        broken = f"teachers/{spec.teacher_id}/cls/c/1/0"
        place.replace(broken, b"broken")
        assert repair_store(place).objects == [broken]
        assert [slot.index for slot in open_store(place).teacher().holes("cls")] == [1, *range(7, len(store.slots))]
        write_card(place)
        out = open_storage(f"memory://operations-{tmp_path.name}-{number}")
        subset_store(place, out, Selection(slots=frozenset({2, 3})))
        merge_stores([place, LocalStorage(tmp_path / "s")], merged := LocalStorage(tmp_path / f"m{number}"))
        found.append([contents(open_store(each)) for each in (place, out, merged)])
        assert diff_stores(out, LocalStorage(tmp_path / "s")).outputs[0].equal > 0
    assert found[0] == found[1]
    assert found[0][2] == contents(open_store(tmp_path / "s"))
