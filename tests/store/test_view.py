"""One teacher's part of a store: holes, commits, rows, and strangers' specifications."""

import copy
import json
import pickle
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embedkd.errors import FormatError, HoleError, IntegrityError, StoreError, UnknownNameError
from embedkd.records import RowStatus
from embedkd.store import EmbeddingStore, Pass, TeacherView, open_store
from embedkd.store.documents import seal, seal_group
from tests.store.samples import encoded

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def view(whole_store: Path) -> TeacherView:
    return open_store(whole_store).teacher("vit:Small")


def test_rows_are_what_the_teacher_said(view: TeacherView, kit: Any) -> None:
    assert view.outputs == ("cls", "logits", "pooled")
    for slot in view.store.slots:
        for output, dtype in (("cls", "float16"), ("pooled", "float32"), ("logits", "float16")):
            outputs = ("logits",) if output == "logits" else ("cls", "pooled")
            said = kit.rows(slot, view.spec, outputs)
            rows, status = encoded(said.outputs[output], said.status[output], dtype)
            read = view.read(slot, output)
            np.testing.assert_array_equal(read.rows, rows)
            np.testing.assert_array_equal(read.status, status)
            np.testing.assert_array_equal(read.keys, said.keys)
            np.testing.assert_array_equal(read.labels, said.labels)
            np.testing.assert_array_equal(read.places, said.places)
            arrays = (read.rows, read.status, read.keys, read.labels, read.places)
            assert [array.dtype.name for array in arrays] == [dtype, "uint8", "uint64", "int32", "uint64"]
            again = view.read_samples(slot, output)
            for name in ("keys", "labels", "places", "status"):
                np.testing.assert_array_equal(getattr(again, name), getattr(read, name))
            assert view.read(slot.index, output).rows.tobytes() == read.rows.tobytes()


def test_overflow_and_lost_images_have_a_status(view: TeacherView) -> None:
    assert view.read(0, "logits").status.tolist()[:3] == [RowStatus.NON_FINITE, RowStatus.DECODE_ERROR, RowStatus.OK]
    commit = view.commit(view.store.slots[0], "logits")
    assert commit is not None
    assert commit.bad == {"logits": {"decode_error": 1, "non_finite": 1}}


@pytest.mark.parametrize("index", [-1, 5, 10**9])
def test_slots_that_are_not_there(view: TeacherView, index: int) -> None:
    with pytest.raises(HoleError, match=f"slots 0 to 4, there is no slot {index}"):
        view.read(index, "cls")


@pytest.mark.parametrize("call", ["read", "class_set", "commit"])
def test_outputs_that_are_not_there(view: TeacherView, call: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: view.read(0, "image"),
        "class_set": lambda: view.class_set(None, "image"),
        "commit": lambda: view.commit(view.store.slots[0], "image"),
    }
    with pytest.raises(UnknownNameError, match="unknown output of vit:Small"):
        calls[call]()


def test_a_hole_raises_and_says_how_to_go_on(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "s")
    writer = kit.fill(store, kit.spec(), ("cls",))
    next((tmp_path / "s").rglob("commits/2.json")).unlink()
    view = open_store(tmp_path / "s").teacher()
    assert not writer.is_committed(store.slots[2])
    assert [slot.index for slot in view.holes("cls")] == [2]
    for read in (view.read, view.read_samples):
        with pytest.raises(HoleError, match=r"slot 2 \(train-1.tar\) .* has no cls; run embedkd precompute again"):
            read(store.slots[2], "cls")
    assert view.read(1, "cls").rows.shape == (3, 6), "the others are there"
    writer.write(store.slots[2], kit.rows(store.slots[2], kit.spec(), ("cls",)), {})
    assert view.holes("cls") == (), "a view sees later commits"


def test_a_damaged_object_is_mended_by_removing_what_the_message_names(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "s")
    writer = kit.fill(store, kit.spec(), ("cls",))
    (chunk,) = (tmp_path / "s").glob("teachers/*/cls/c/1/0")
    before = chunk.read_bytes()
    chunk.write_bytes(before[:-1] + b"\0")
    with pytest.raises(IntegrityError) as caught:
        open_store(tmp_path / "s").teacher().read(1, "cls")
    named = [word for word in str(caught.value).replace(";", " ").split() if word.startswith("teachers/")]
    assert [Path(name).name for name in named] == ["0", "1.json"]
    for name in named:
        (tmp_path / "s" / name).unlink()
    writer.write(store.slots[1], kit.rows(store.slots[1], kit.spec(), ("cls",)), {})
    assert chunk.read_bytes() == before
    open_store(tmp_path / "s").teacher().read(1, "cls")


@pytest.fixture
def forge_commit(tmp_path: Path, kit: Any) -> Any:
    """Change members of the commit of slot 0 and seal it again; returns a fresh view."""
    store = kit.create(tmp_path / "s")
    kit.fill(store, kit.spec(), ("cls", "pooled"))
    (path,) = (tmp_path / "s").glob("teachers/*/pass-*/commits/0.json")

    def write(change: Any) -> TeacherView:
        document = json.loads(path.read_bytes())
        del document["digest"]
        change(document)
        path.write_bytes(seal(document))
        return open_store(tmp_path / "s").teacher()

    return write


def count_one_more(commit: dict[str, Any]) -> None:
    """As if the row without an image had one."""
    commit["ok"]["cls"] = 8
    commit["bad"]["cls"] = {}
    commit["error"]["cls"]["histogram"][0] += 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(slot=1), "another slot, pass or teacher"),
        (lambda c: c.update(pass_digest="0" * 64), "another slot, pass or teacher"),
        (lambda c: c.update(fingerprint="0" * 64), "another slot, pass or teacher"),
        (lambda c: c.update(rows=7, ok={"cls": 7, "pooled": 7}, bad={"cls": {}, "pooled": {}}), "another slot, pass"),
        (lambda c: c.update(decode="0" * 64), "another decode policy"),
        (lambda c: c["source"].update(bytes=1), "other bytes than the manifest's train-0.tar"),
        (lambda c: c["source"].update(blake2b="0" * 64), "other bytes than the manifest's train-0.tar"),
        (lambda c: [c[name].pop("cls") for name in ("ok", "bad", "error")], "does not cover the outputs of its pass"),
        (lambda c: c.update(max_label=3), "label 3, the manifest names 3 classes"),
        (lambda c: c.update(max_label=0), "rows/label of slot 0 does not fit its commit"),
        (lambda c: c.update(labelled=8), "rows/label of slot 0 does not fit its commit"),
        (lambda c: c.update(keys="0" * 64), "rows/key of slot 0 does not fit its commit"),
        (lambda c: count_one_more(c), "cls_status of slot 0 does not fit its commit"),
        (lambda c: c.update(objects=[]), "does not name rows/key/c/0"),
        (lambda c: c["objects"][0].update(bytes=7), "rows/key/c/0 is not the one that was recorded"),
        (lambda c: c["objects"][3].update(key="../../etc/passwd"), "does not name teachers/"),
    ],
)
def test_forged_commits_have_to_fit_everything_else(forge_commit: Any, change: Any, says: str) -> None:
    with pytest.raises(IntegrityError, match=says):
        forge_commit(change).read(0, "cls")


def test_a_pass_of_outputs_that_the_teacher_has_not(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "s")
    kit.fill(store, kit.spec(), ("cls",))
    forged = Pass(("image",), 8, 1, "x")
    folder = tmp_path / "s" / "teachers" / kit.spec().teacher_id / forged.pass_id
    folder.mkdir()
    (folder / "pass.json").write_bytes(seal(forged.to_json()))
    with pytest.raises(IntegrityError, match="has rows of 'image', which its specification does not name"):
        open_store(tmp_path / "s").teacher().read(0, "cls")


def test_commits_are_read_once(view: TeacherView, monkeypatch: pytest.MonkeyPatch) -> None:
    first = view.commit(view.store.slots[0], "cls")
    monkeypatch.setattr(view.store.storage, "get", lambda *_, **__: pytest.fail("read again"))
    assert view.commit(view.store.slots[0], "pooled") is first


def test_threads_may_share_a_view(view: TeacherView) -> None:
    found: list[bytes] = []
    start = threading.Barrier(6)

    def read() -> None:
        start.wait()
        found.append(b"".join(view.read(i, "cls").rows.tobytes() for i in range(5)))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1


def test_a_view_can_be_sent_to_another_process(view: TeacherView) -> None:
    sent = pickle.loads(pickle.dumps(view))
    np.testing.assert_array_equal(sent.read(0, "cls").rows, view.read(0, "cls").rows)


@pytest.fixture
def forge(whole_store: Path, tmp_path: Path) -> Any:
    """Give a teacher a specification that somebody forged and sealed; returns what opening it raises."""
    folder = tmp_path / "forged.zarr"
    shutil.copytree(whole_store, folder)
    view = open_store(folder).teacher("vit:Other")
    path = folder / "teachers" / view.teacher_id / "zarr.json"
    facts = json.loads(path.read_bytes())["attributes"]["embedkd"]

    def write(change: Any) -> EmbeddingStore:
        forged = copy.deepcopy({key: value for key, value in facts.items() if key != "digest"})
        change(forged)
        path.write_bytes(seal_group(forged))
        return open_store(folder)

    return write


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.pop("spec"),
        lambda facts: facts.pop("fingerprint"),
        lambda facts: facts.update(spec=[]),
        lambda facts: facts.update(fingerprint="0" * 64),
        lambda facts: facts["spec"].pop("model"),
        lambda facts: facts["spec"].update(model=7),
        lambda facts: facts["spec"].update(model="another"),
        lambda facts: facts["spec"].update(name="vit:Else"),
        lambda facts: facts["spec"].update(future=1),
        lambda facts: facts["spec"].update(outputs=None),
        lambda facts: facts["spec"].update(outputs=[1]),
        lambda facts: facts["spec"].update(outputs=[{"name": "cls"}]),
        lambda facts: facts["spec"]["outputs"][0].update(dim="6"),
        lambda facts: facts["spec"]["outputs"][0].update(dim=10**12),
        lambda facts: facts["spec"]["outputs"][0].update(name="../../x"),
        lambda facts: facts["spec"]["outputs"][0].update(dtype="object"),
        lambda facts: facts["spec"].update(preprocess=[]),
        lambda facts: facts["spec"].update(preprocess={"mean": 1}),
        lambda facts: facts["spec"].update(libraries=7),
        lambda facts: facts["spec"].update(libraries=["torch"]),
    ],
)
def test_forged_specifications_are_refused_in_one_line(forge: Any, change: Any) -> None:
    with pytest.raises(StoreError) as caught:
        forge(change).teacher("vit:Other")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_facts_beside_the_specification_are_ignored(forge: Any) -> None:
    view = forge(lambda facts: facts.update(card="a model card")).teacher("vit:Other")
    assert view.read(0, "cls").rows.shape == (8, 6)


@pytest.mark.parametrize("name", ["..", ".", "", "vit", "../vit-00000000", "vit-00000000/..", "vit-0000000g"])
def test_folders_that_are_no_teacher(whole_store: Path, name: str) -> None:
    with pytest.raises(FormatError, match="expected a teacher folder"):
        TeacherView(open_store(whole_store), name)
