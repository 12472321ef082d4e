"""Sealing: the same answers from one document as from many, checked as strictly, without listing, whenever it stops."""

import base64
import http.server
import json
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import ConflictError, FormatError, IntegrityError, ListingError, StoreError
from embedkd.records import Shard
from embedkd.storage import LocalStorage, open_storage
from embedkd.store import (
    EmbeddingStore,
    Pass,
    PassWriter,
    TeacherView,
    append_shards,
    average,
    check_objects,
    copy_store,
    open_store,
    repair_store,
    seal_store,
    write_class_set,
)
from embedkd.store.catalogue import Catalogue, catalogue_key
from embedkd.store.documents import Fields, pack, seal
from tests.store.faults import disturbed


class Unlistable(LocalStorage):
    """What plain HTTP can do."""

    def list_names(self, prefix: str) -> list[str]:
        raise ListingError(f"cannot list {prefix}")


@pytest.fixture(scope="module")
def sealed_once(whole_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed") / "s.zarr"
    shutil.copytree(whole_store, folder)
    seal_store(LocalStorage(folder))
    return folder


@pytest.fixture
def folder(sealed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed_once, tmp_path / "s.zarr"))


def everything(store: EmbeddingStore) -> Iterator[Any]:
    """All that a store says, but attempts."""
    yield store.manifest
    for teacher_id in store.teacher_ids:
        view = store.teacher(teacher_id)
        for output in view.outputs:
            counts = view.counts(output)
            yield [counts.committed.tolist(), counts.ok.tolist(), counts.labelled.tolist(), counts.max_label.tolist()]
            yield {reason: column.tolist() for reason, column in counts.bad.items()}
            for slot in store.slots:
                commit = view.committed(slot, output).to_json()
                yield {name: value for name, value in commit.items() if name != "attempt"}
                read = view.read(slot, output)
                yield [a.tobytes() for a in (read.rows, read.status, read.keys, read.labels, read.places)]
            yield view.error(output)
        for output in ("cls", "pooled"):
            if output in view.outputs:
                yield view.class_set(None, output).mean.tobytes()


def test_a_sealed_store_says_what_it_said(whole_store: Path, folder: Path) -> None:
    assert list(everything(open_store(folder))) == list(everything(open_store(whole_store)))


def test_neither_commits_nor_a_listing_are_needed(whole_store: Path, folder: Path) -> None:
    for commits in folder.glob("teachers/*/pass-*/commits"):
        shutil.rmtree(commits)
    store = open_store(Unlistable(folder))
    assert list(everything(store)) == list(everything(open_store(whole_store)))
    assert store.teacher_ids == open_store(whole_store).teacher_ids
    sent = pickle.loads(pickle.dumps(store.teacher("vit:Small")))
    assert sent.read(0, "cls").rows.shape == (8, 6)


def test_what_cannot_be_listed_has_to_be_sealed(whole_store: Path) -> None:
    with pytest.raises(ListingError):
        open_store(Unlistable(whole_store))


def test_a_second_seal_finds_nothing_to_do(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    report = seal_store(LocalStorage(folder))
    assert (report.number, report.new, report.index_bytes) == (0, False, 0)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_says_the_same_and_writes_nothing(whole_store: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole_store, tmp_path / "s.zarr")
    names = sorted(folder.rglob("*"))
    dry = seal_store(LocalStorage(folder), dry_run=True)
    assert sorted(folder.rglob("*")) == names
    assert dry == seal_store(LocalStorage(folder))
    assert dry.new
    assert {count for passes in dry.passes.values() for count in passes.values()} == {dry.slots}


def test_later_work_is_seen_at_once_and_sealed_next(tmp_path: Path, kit: Any) -> None:
    """Slots come in two halves; the index of the first stays, the second one is a union."""
    store = kit.create(tmp_path / "s")
    writer = kit.fill(store, kit.spec(), ("cls", "pooled"))
    later = list((tmp_path / "s").glob("teachers/*/pass-*/commits/[13].json"))
    saved = {path: path.read_bytes() for path in later}
    for path in later:
        path.unlink()
    first = seal_store(store.storage)
    (half,) = [count for passes in first.passes.values() for count in passes.values()]
    assert half == 3
    view = open_store(tmp_path / "s").teacher()
    assert [slot.index for slot in view.holes("cls")] == [1, 3]
    for path, data in saved.items():
        path.write_bytes(data)
    assert view.holes("cls") == (), "commits count from the moment that they are there"
    assert open_store(Unlistable(tmp_path / "s")).teacher().holes("pooled") == ()
    second = seal_store(store.storage)
    assert (second.number, second.new) == (1, True)
    fresh = kit.create(tmp_path / "t")
    kit.fill(fresh, kit.spec(), ("cls", "pooled"))
    ours, theirs = (open_store(tmp_path / name).teacher() for name in "st")
    (run,) = ours.passes
    assert ours.log.index(run) is not None
    for slot in ours.store.slots:
        mine, other = (view.committed(slot, "cls").to_json() for view in (ours, theirs))
        assert {**mine, "attempt": {}} == {**other, "attempt": {}}
    assert len(list((tmp_path / "s").glob("teachers/*/pass-*/sealed/*.json"))) == 2
    assert writer.is_committed(store.slots[0])


def test_a_new_class_set_is_a_new_seal(folder: Path) -> None:
    view = open_store(folder).teacher("vit:Other")
    write_class_set(view, "cls", average(view, "cls", samples_per_class=1, seed=3))
    report = seal_store(LocalStorage(folder))
    assert (report.number, report.new, report.index_bytes) == (1, True, 0)
    unlisted = open_store(Unlistable(folder)).teacher("vit:Other")
    assert unlisted.class_set("n1-seed3", "cls").seed == 3


def test_a_seal_that_dies_anywhere_is_finished_by_the_next(whole_store: Path, tmp_path: Path) -> None:
    expected = seal_store(LocalStorage(shutil.copytree(whole_store, tmp_path / "whole.zarr")))
    before = list(everything(open_store(whole_store)))
    deaths = 0
    for folder in disturbed(whole_store, tmp_path, seal_store):
        deaths += 1
        assert list(everything(open_store(folder))) == before
        assert seal_store(LocalStorage(folder)).digest == expected.digest
        assert list(everything(open_store(Unlistable(folder)))) == before
    assert deaths == 5, "three indexes, the shelf and the catalogue"


def test_of_two_that_seal_at_once_one_is_told(folder: Path) -> None:
    """The other one put another catalogue under the same number meanwhile."""
    view = open_store(folder).teacher("vit:Other")
    write_class_set(view, "cls", average(view, "cls", samples_per_class=1, seed=3))

    class Slow(LocalStorage):
        def put_new(self, key: str, data: bytes) -> None:
            if key == catalogue_key(1):
                view = open_store(folder).teacher("vit:Other")
                write_class_set(view, "cls", average(view, "cls", samples_per_class=1, seed=4))
                assert seal_store(LocalStorage(folder)).number == 1
            super().put_new(key, data)

    with pytest.raises(ConflictError, match="sealed by another process meanwhile"):
        seal_store(Slow(folder))
    assert seal_store(LocalStorage(folder)).new is False


def names_of(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if "sealed" in name)


def use(folder: Path) -> None:
    list(everything(open_store(folder)))


def test_every_change_to_what_was_sealed_is_found(folder: Path) -> None:
    rng = np.random.default_rng(0)
    names = names_of(folder)
    assert len(names) == 5
    for name in names:
        data = (folder / name).read_bytes()
        changes = [
            data[:at] + bytes([data[at] ^ 1 << rng.integers(8)]) + data[at + 1 :]
            for at in rng.integers(0, len(data), 8)
        ]
        for changed in (*changes, data[:-1], data + b" ", b""):
            (folder / name).write_bytes(changed)
            with pytest.raises(StoreError) as caught:
                use(folder)
            assert "\n" not in str(caught.value)
        (folder / name).unlink()
        if name != "sealed/0.json":  # without it the store is as it was before it was sealed
            with pytest.raises(IntegrityError):
                use(folder)
        (folder / name).write_bytes(data)
    use(folder)


def test_every_swap_of_indexes_is_found(folder: Path) -> None:
    names = [name for name in names_of(folder) if "pass-" in name]
    for name, other in zip(names, (*names[1:], names[0]), strict=True):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes((folder / other).read_bytes())
        with pytest.raises(IntegrityError, match="is not the one that was sealed"):
            use(folder)
        (folder / name).write_bytes(data)


def test_a_manifest_of_another_content_is_found(folder: Path) -> None:
    path = folder / "manifest/0.json"
    document = json.loads(path.read_bytes())
    del document["digest"]
    path.write_bytes(seal({**document, "root": "../elsewhere"}))
    with pytest.raises(IntegrityError, match=r"manifest/0.json is not the one that was sealed"):
        open_store(folder)


@pytest.fixture
def forge(folder: Path) -> Callable[..., TeacherView]:
    """Change the index of one pass, and the catalogue with it, as somebody would who knows how."""
    path = next(folder.glob("teachers/vit-other-*/pass-*/sealed/0.json"))
    teacher_id, pass_id = path.relative_to(folder).parts[1:3]

    def write(change: Any) -> TeacherView:
        index, catalogue = (json.loads(p.read_bytes()) for p in (path, folder / "sealed/0.json"))
        del index["digest"], catalogue["digest"]
        change(index)
        path.write_bytes(seal(index))
        catalogue["teachers"][teacher_id]["passes"][pass_id]["index"]["digest"] = json.loads(path.read_bytes())[
            "digest"
        ]
        (folder / "sealed/0.json").write_bytes(seal(catalogue))
        return open_store(folder).teacher(teacher_id)

    return write


def first_of(catalogue: Any) -> Any:
    return next(iter(catalogue["teachers"].values()))


def packed(*numbers: int) -> str:
    return base64.b64encode(np.array(numbers, "<u4").tobytes()).decode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda i: i.update(pass_digest="0" * 64), "another pass, teacher or decode policy"),
        (lambda i: i.update(fingerprint="0" * 64), "another pass, teacher or decode policy"),
        (lambda i: i.update(decode="0" * 64), "another pass, teacher or decode policy"),
        (lambda i: i.update(sources="0" * 64), "other bytes than the manifest's shards"),
        (lambda i: i.update(slots=packed(0, 1, 2, 3, 5)), "has slot 5, the manifest has 5"),
        (lambda i: i.update(slots=packed(0, 1, 2, 4, 3)), "rising order"),
        (lambda i: i.update(slots=packed(0, 1, 2, 3, 3)), "rising order"),
        (lambda i: i.update(slots=packed(0, 1, 2, 3)), "commits to be base64 of 4 times 32 bytes"),
        (lambda i: i.update(slots=packed()), "expected commits of 5 arrays, got 0 of 5"),
        (lambda i: i.update(slots="AAA"), "slots to be base64"),
        (lambda i: i.update(slots="ÄÄÄ="), "slots to be base64"),
        (lambda i: i.update(slots=7), "slots to be base64"),
        (lambda i: i.update(labelled=packed(9, 0, 0, 0, 0)), "does not count each row"),
        (lambda i: i.update(max_label=packed(3, 0, 0, 0, 0)), "labels from 0 to 3, the manifest names 3"),
        (lambda i: i.update(max_label=packed(2**32 - 2, 0, 0, 0, 0)), "labels from -2 to 0"),
        (lambda i: i["ok"].update(cls=packed(8, 1, 4, 2, 0)), "does not count each row"),
        (lambda i: i["ok"].update(other=packed(8, 1, 4, 2, 0)), "does not cover the outputs"),
        (lambda i: i["bad"].pop("cls"), "does not cover the outputs"),
        (lambda i: i["error"].pop("cls"), "does not cover the outputs"),
        (lambda i: i["error"]["cls"].pop("max"), "lacks 'max'"),
        (lambda i: i["error"]["cls"].update(mean=i["error"]["cls"]["histogram"]), "mean to be base64"),
        (lambda i: i["error"]["cls"].update(histogram=pack(np.ones((5, 11), np.uint16))), "say the error of each row"),
        (lambda i: i["objects"].pop(), "expected commits of 5 arrays, got 5 of 4"),
        (lambda i: i["objects"][0].pop("crc32c"), "lacks 'crc32c'"),
        (lambda i: i.update(keys="AAAA"), "keys to be base64 of 5 times 32 bytes"),
        (lambda i: i.update(keys=i["commits"]), "rows/key of slot 0 does not fit its commit"),
        (lambda i: i["objects"][2].update(bytes=packed(1, 1, 1, 1, 1)), "is not the one that was recorded"),
    ],
)
def test_forged_indexes_have_to_fit_everything_else(forge: Any, change: Any, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        forge(change).read(0, "cls")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(store_uuid="another"), "belongs to another store"),
        (lambda c: c.update(number=1), "has another number"),
        (lambda c: c.update(generation=1), "not the one that was sealed"),
        (lambda c: c.update(generation=-1), "generation to be a whole number"),
        (lambda c: c.update(teachers=[]), "expected a JSON object"),
        (lambda c: c["teachers"].update({"../x": c["teachers"].popitem()[1]}), "expected names of teachers"),
        (
            lambda c: next(iter(c["teachers"].values()))["passes"].update({"..": {"pass": "0" * 64}}),
            "expected names of",
        ),
        (lambda c: next(iter(c["teachers"].values()))["heads"].update({"../../x": "0" * 64}), "expected names of"),
        (lambda c: next(iter(c["teachers"].values()))["classes"].update({"x": {"..": "0" * 64}}), "expected names of"),
    ],
)
def test_forged_catalogues_are_refused(folder: Path, change: Any, says: str) -> None:
    document = json.loads((folder / "sealed/0.json").read_bytes())
    del document["digest"]
    change(document)
    (folder / "sealed/0.json").write_bytes(seal(document))
    with pytest.raises((FormatError, IntegrityError), match=says):
        open_store(folder)


def test_a_commit_that_does_not_name_its_objects_is_not_sealed(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "s")
    kit.fill(store, kit.spec(), ("cls",))
    path = next((tmp_path / "s").glob("teachers/*/pass-*/commits/2.json"))
    document = json.loads(path.read_bytes())
    del document["digest"]
    document["objects"].reverse()
    path.write_bytes(seal(document))
    with pytest.raises(IntegrityError, match=r"commits/2.json does not name the objects of its slot"):
        seal_store(store.storage)
    assert not (tmp_path / "s/sealed").exists()


def test_a_catalogue_is_what_it_was_written_from(folder: Path) -> None:
    document = json.loads((folder / "sealed/0.json").read_bytes())
    del document["digest"], document["format"]
    assert Catalogue.from_json(Fields(document, "it")).to_json() == document


def test_zarr_readers_are_not_disturbed(folder: Path) -> None:
    import zarr

    assert dict(zarr.open_group(folder, mode="r").members(max_depth=None))


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    """The store behind a plain HTTP server; its URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder.parent))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{folder.name}"
        server.shutdown()
        thread.join()


def test_plain_http(served: str, whole_store: Path, tmp_path: Path) -> None:
    assert list(everything(open_store(served))) == list(everything(open_store(whole_store)))
    report = copy_store(open_storage(served), LocalStorage(tmp_path / "copy"))
    assert report.objects > 100
    assert list(everything(open_store(tmp_path / "copy"))) == list(everything(open_store(whole_store)))


def test_plain_http_without_a_seal(served: str, folder: Path) -> None:
    shutil.rmtree(folder / "sealed")
    with pytest.raises(ListingError, match="run embedkd store seal"):
        open_store(served)


def test_a_teacher_that_was_only_begun_stands_in_nobodys_way(whole_store: Path, tmp_path: Path, kit: Any) -> None:
    """Its writer died at each of its first writes; everything that was there before is sealed, copied and verified."""
    spec, plan = kit.spec("vit:Third", "3"), Pass(("cls",), 8, 1, "a processor")
    before = len(open_store(whole_store).teacher_ids)
    begun = []
    for copy in disturbed(whole_store, tmp_path, lambda storage: PassWriter(open_store(storage), spec, plan)):
        seal_store(LocalStorage(copy))
        assert check_objects(open_store(copy)) == ()
        assert vars(repair_store(LocalStorage(copy), dry_run=True))["metadata"] == []
        copy_store(LocalStorage(copy), LocalStorage(copy.with_suffix(".copy")))
        store = open_store(copy.with_suffix(".copy"))
        begun.append(len(store.teacher_ids) - before)
        assert append_shards(store.storage, (Shard("train-2.tar", "train", 1, 1, "e" * 64),)).shards == 1
        writer = PassWriter(open_store(store.storage), spec, plan)
        writer.write(store.slots[0], kit.rows(store.slots[0], spec, ("cls",)), {})
    assert begun == [0, *[1] * (len(begun) - 1)]
    assert len(begun) == 10
