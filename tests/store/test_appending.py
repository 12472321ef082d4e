"""Appending shards: old rows stay, new ones are holes, and the store is the old or the new one at every moment."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr

from embedkd.errors import ConflictError, FormatError, HoleError, IntegrityError, StoreError
from embedkd.records import Shard
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, append_shards, average, open_store, seal_store, write_class_set
from embedkd.store.documents import seal
from tests.store.faults import Death, Mortal, disturbed

NEW = (Shard("train-2.tar", "train", 4_096, 10, "e" * 64), Shard("val-1.tar", "val", 2_048, 1, "f" * 64))


@pytest.fixture
def folder(whole_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_store, tmp_path / "s.zarr"))


def lengths(folder: Path) -> set[int]:
    """First axes of all arrays of rows."""
    paths = [*folder.glob("rows/*/zarr.json"), *folder.glob("teachers/*/*/zarr.json")]
    metadata = [json.loads(path.read_bytes()) for path in paths]
    return {m["shape"][0] for m in metadata if m["node_type"] == "array" and m["shape"][0]}


def rows_of(folder: Path, slots: range) -> list[bytes]:
    store = open_store(folder)
    views = [store.teacher(name) for name in store.teacher_ids]
    return [v.read(slot, output).rows.tobytes() for v in views for output in v.outputs for slot in slots]


def complete(folder: Path, kit: Any) -> None:
    """Compute what is missing, as precompute would."""
    store = open_store(folder)
    for spec, outputs in (
        (kit.spec(), ("cls", "pooled")),
        (kit.spec(), ("logits",)),
        (kit.spec("vit:Other", "1"), ("cls",)),
    ):
        writer = PassWriter(store, spec, Pass(outputs, 8, 1, "a processor"))
        for slot in store.slots:
            if not writer.is_committed(slot):
                writer.write(slot, kit.rows(slot, spec, outputs), {})


def test_old_rows_stay_and_new_ones_are_holes(folder: Path) -> None:
    before = rows_of(folder, range(5))
    report = append_shards(LocalStorage(folder), NEW)
    assert (report.generation, report.shards, report.slots, report.rows, report.arrays) == (1, 2, 3, 11, 11)
    store = open_store(folder)
    assert store.manifest.generation == 1
    assert [(s.shard.url, s.start, s.rows) for s in store.slots[5:]] == [
        ("train-2.tar", 0, 8),
        ("train-2.tar", 8, 2),
        ("val-1.tar", 0, 1),
    ]
    assert rows_of(folder, range(5)) == before
    view = store.teacher("vit:Small")
    assert [slot.index for slot in view.holes("cls")] == [5, 6, 7]
    with pytest.raises(HoleError, match=r"slot 5 \(train-2.tar\)"):
        view.read(5, "cls")
    assert lengths(folder) == {64}


def test_new_rows_are_computed_and_others_readers_see_them(folder: Path, kit: Any) -> None:
    append_shards(LocalStorage(folder), NEW)
    complete(folder, kit)
    view = open_store(folder).teacher("vit:Small")
    assert view.holes("cls") == ()
    rows = np.concatenate([view.read(slot, "cls").rows for slot in view.store.slots[5:]])
    name = f"teachers/{view.teacher_id}/cls"
    found: Any = zarr.open_group(folder, mode="r")[name]
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / name)}}
    theirs: Any = tensorstore.open(spec).result().read().result()
    for array in (found[:], theirs):
        assert array.shape == (64, 6)
        np.testing.assert_array_equal(np.concatenate([array[40:48], array[48:50], array[56:57]]), rows)


def test_a_reader_of_the_old_store_goes_on(folder: Path, kit: Any) -> None:
    """It opened before, and looks at the arrays after."""
    view = open_store(folder).teacher("vit:Small")
    append_shards(LocalStorage(folder), NEW)
    append_shards(LocalStorage(folder), (Shard("train-3.tar", "train", 4_096, 1, "9" * 64),))
    assert view.read(0, "cls").rows.shape == (8, 6)
    assert view.holes("cls") == ()


def test_a_writer_of_the_old_store_goes_on(folder: Path, kit: Any) -> None:
    store = open_store(folder)
    for path in folder.glob("teachers/vit-other-*/pass-*/commits/2.json"):
        path.unlink()
    append_shards(LocalStorage(folder), NEW)
    spec = kit.spec("vit:Other", "1")
    writer = PassWriter(store, spec, Pass(("cls",), 8, 1, "a processor"))
    writer.write(store.slots[2], kit.rows(store.slots[2], spec, ("cls",)), {})
    assert lengths(folder) == {64}, "it never makes an array shorter"
    assert len(open_store(folder).teacher("vit:Other").holes("cls")) == 3


def test_what_is_there_already_is_left_out(folder: Path, kit: Any) -> None:
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert append_shards(LocalStorage(folder), kit.shards).shards == 0
    assert files == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert append_shards(LocalStorage(folder), (*kit.shards, *NEW, *NEW)).shards == 2
    assert append_shards(LocalStorage(folder), NEW).arrays == 0
    assert open_store(folder).manifest.generation == 1


def test_a_dry_run_changes_nothing(folder: Path) -> None:
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    dry = append_shards(LocalStorage(folder), NEW, dry_run=True)
    assert files == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert dry == append_shards(LocalStorage(folder), NEW)


@pytest.mark.parametrize("change", [{"rows": 12}, {"size_bytes": 1}, {"blake2b": "0" * 64}, {"split": "val"}])
def test_another_shard_of_a_known_name_is_refused(folder: Path, kit: Any, change: dict[str, Any]) -> None:
    other = Shard(**{**vars(kit.shards[0]), **change})
    with pytest.raises(StoreError, match=r"made from another train-0.tar"):
        append_shards(LocalStorage(folder), (other, *NEW))
    with pytest.raises(StoreError, match=r"made from another train-2.tar"):
        append_shards(LocalStorage(folder), (*NEW, Shard(**{**vars(NEW[0]), **change})))
    assert open_store(folder).manifest.generation == 0


def test_an_append_that_dies_anywhere_leaves_the_old_store_or_the_new_one(
    folder: Path, tmp_path: Path, kit: Any
) -> None:
    seal_store(LocalStorage(folder))
    before = rows_of(folder, range(5))
    generations = []
    for copy in disturbed(folder, tmp_path, lambda storage: append_shards(storage, NEW)):
        store = open_store(copy)
        generations.append(store.manifest.generation)
        assert len(store.slots) == (5 if store.manifest.generation == 0 else 8)
        again = append_shards(LocalStorage(copy), NEW)
        assert again.generation == 1
        assert again.shards == (2 if generations[-1] == 0 else 0)
        assert lengths(copy) == {64}
        assert rows_of(copy, range(5)) == before
    assert generations == [0, *[1] * 22], "the manifest first, then eleven arrays, each looked for and then replaced"


def test_precompute_heals_an_append_that_died(folder: Path, kit: Any) -> None:
    """Behind the manifest and two of the eleven arrays."""
    with pytest.raises(Death):
        append_shards(Mortal(folder, [6]), NEW)
    assert lengths(folder) == {40, 64}
    complete(folder, kit)
    assert lengths(folder) == {64}
    assert not any(open_store(folder).teacher("vit:Small").holes(output) for output in ("cls", "pooled", "logits"))


def test_of_two_that_append_at_once_one_is_told(folder: Path) -> None:
    class Slow(LocalStorage):
        def put_new(self, key: str, data: bytes) -> None:
            if key == "manifest/1.json":
                append_shards(LocalStorage(folder), NEW[1:])
            super().put_new(key, data)

    with pytest.raises(ConflictError, match="appended to by another process"):
        append_shards(Slow(folder), NEW)
    append_shards(LocalStorage(folder), NEW)
    assert [shard.url for shard in open_store(folder).shards[-2:]] == ["val-1.tar", "train-2.tar"]


def test_a_stalled_append_cannot_do_harm(folder: Path) -> None:
    """It wakes up after another one, and makes arrays as long as it knows."""
    short = {path: path.read_bytes() for path in folder.glob("rows/*/zarr.json")}
    append_shards(LocalStorage(folder), NEW)
    for path, data in short.items():
        path.write_bytes(data)
    assert open_store(folder).teacher("vit:Small").read(0, "cls").rows.shape == (8, 6)
    assert append_shards(LocalStorage(folder), ()).arrays == 3
    assert lengths(folder) == {64}


@pytest.mark.parametrize("shape", [[32], [48], [72], [40, 1], [1 << 40]])
def test_lengths_of_no_generation_are_refused(folder: Path, shape: list[int]) -> None:
    append_shards(LocalStorage(folder), NEW)
    path = folder / "rows/key/zarr.json"
    path.write_bytes(
        path.read_bytes().replace(b'"shape":[64]', b'"shape":' + json.dumps(shape, separators=(",", ":")).encode())
    )
    with pytest.raises(IntegrityError, match=r"rows/key/zarr.json is not what"):
        open_store(folder).teacher("vit:Small").read(0, "cls")


def test_seals_survive_and_grow(folder: Path, kit: Any) -> None:
    seal_store(LocalStorage(folder))
    append_shards(LocalStorage(folder), NEW)
    view = open_store(folder).teacher("vit:Small")
    assert view.read(4, "pooled").rows.shape == (0, 3)
    complete(folder, kit)
    report = seal_store(LocalStorage(folder))
    assert {slots for passes in report.passes.values() for slots in passes.values()} == {8}
    assert open_store(folder).catalogue is not None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"previous": "0" * 64}, IntegrityError),
        ({"previous": None}, FormatError),
        ({"generation": 2}, IntegrityError),
    ],
)
def test_a_generation_that_does_not_follow_what_was_sealed_is_refused(
    folder: Path, change: dict[str, Any], error: type[StoreError]
) -> None:
    seal_store(LocalStorage(folder))
    append_shards(LocalStorage(folder), NEW)
    document = json.loads((folder / "manifest/1.json").read_bytes())
    del document["digest"]
    (folder / "manifest/1.json").write_bytes(seal(document | change))
    with pytest.raises(error):
        open_store(folder)


def test_class_sets_of_the_new_store_have_names_of_their_own(folder: Path, kit: Any) -> None:
    append_shards(LocalStorage(folder), NEW)
    view = open_store(folder).teacher("vit:Other")
    assert view.class_set(None, "cls").name == "n2-seed0", "the old one, while there is no other"
    complete(folder, kit)
    view = open_store(folder).teacher("vit:Other")
    write_class_set(view, "cls", average(view, "cls", samples_per_class=2, seed=0))
    assert view.class_set(None, "cls").name == "n2-seed0-g1"
    assert view.class_set("n2-seed0", "cls").name == "n2-seed0"
