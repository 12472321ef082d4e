"""Writers: create-only, and a commit last."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import ConflictError, FormatError, IntegrityError, StoreError
from embedkd.records import OutputSpec, RowStatus
from embedkd.store import EmbeddingStore, Pass, PassWriter, SlotRows, open_store
from tests.store.samples import encoded

PLAN = Pass(("cls", "pooled"), 8, 1, "a processor")


def test_what_is_written_is_read(writer: PassWriter, store: EmbeddingStore, rows: SlotRows) -> None:
    slot = store.slots[0]
    assert not writer.is_committed(slot)
    commit = writer.write(slot, rows, {"system": "x"})
    assert writer.is_committed(slot)
    assert commit.attempt["system"] == "x"
    view = open_store(store.storage).teacher()
    for output in PLAN.outputs:
        read = view.read(slot, output)
        spec = view.spec.output(output)
        assert spec is not None
        expected, status = encoded(rows.outputs[output], rows.status[output], spec.encoding)
        np.testing.assert_array_equal(read.rows, expected)
        np.testing.assert_array_equal(read.status, status)
        np.testing.assert_array_equal(read.keys, rows.keys)
        np.testing.assert_array_equal(read.labels, rows.labels)
        np.testing.assert_array_equal(read.places, rows.places)
    assert view.commit(slot, "cls") == commit
    assert (commit.rows, commit.labelled, commit.max_label) == (8, 7, 1)
    assert commit.ok == {"cls": 7, "pooled": 7}
    assert commit.bad == {"cls": {"decode_error": 1}, "pooled": {"decode_error": 1}}
    assert [entry.key for entry in commit.objects][:3] == ["rows/key/c/0", "rows/label/c/0", "rows/place/c/0/0"]


def test_the_commit_is_the_last_write(store: EmbeddingStore, writer: PassWriter, rows: SlotRows, kit: Any) -> None:
    """Stopped after any number of puts, the slot has no commit; another writer then ends with the same bytes."""
    slot, put, puts = store.slots[0], store.storage.put_new, 0
    assert writer.write(slot, rows, {}).objects
    whole = kit.files(store)
    names = [name for name in whole if name.endswith("c/0") or "/c/0/" in name or "/commits/" in name]
    for stop in range(len(names)):
        for name in names:
            Path(store.storage.url, name).unlink()
        puts = 0

        def stopping(key: str, data: bytes, stop: int = stop) -> None:
            nonlocal puts
            if puts == stop:
                raise KeyboardInterrupt
            puts += 1
            put(key, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store.storage, "put_new", stopping)
            with pytest.raises(KeyboardInterrupt):
                writer.write(slot, rows, {})
        assert not writer.is_committed(slot)
        PassWriter(store, kit.spec(), PLAN).write(slot, rows, {})
        assert {n: d for n, d in kit.files(store).items() if "/commits/" not in n} == {
            n: d for n, d in whole.items() if "/commits/" not in n
        }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"keys": np.zeros(7, np.uint64)}, r"expected 8 rows, got \[7, 8\]"),
        ({"labels": np.full(8, 3, np.int32)}, "expected labels below 3"),
        ({"labels": np.full(8, -2, np.int32)}, "a label of -1 where there is none"),
        ({"places": np.zeros((7, 3), np.uint64)}, r"expected 8 rows, got \[7, 8\]"),
        ({"places": np.zeros((8, 3), np.uint64)}, "expected places within the tar"),
        ({"status": {"cls": np.zeros(8, np.uint8)}}, "expected a status of 1 to 5"),
        ({"status": {"cls": np.full(8, 6, np.uint8)}}, "expected a status of 1 to 5"),
        ({"source": {"url": "x", "bytes": 1, "blake2b": "a" * 64}}, "another tar"),
        ({"source": {"url": "x", "bytes": 9216, "blake2b": "b" * 64}}, "another tar"),
    ],
)
def test_rows_that_are_not_the_slots_are_refused_before_anything_is_written(
    writer: PassWriter, store: EmbeddingStore, rows: SlotRows, changes: dict[str, Any], says: str, kit: Any
) -> None:
    before = kit.files(store)
    with pytest.raises(StoreError, match=says):
        writer.write(store.slots[0], replace(rows, **changes), {})
    assert kit.files(store) == before


def test_values_of_samples_that_could_not_be_read_are_not_stored(
    writer: PassWriter, store: EmbeddingStore, rows: SlotRows
) -> None:
    said = {name: np.nan_to_num(r, nan=7.0) for name, r in rows.outputs.items()}
    writer.write(store.slots[0], replace(rows, outputs=said), {})
    read = open_store(store.storage).teacher().read(0, "cls")
    assert np.isnan(read.rows[1]).all()
    assert read.status[1] == RowStatus.DECODE_ERROR


def test_a_pass_that_is_there_keeps_its_settings(store: EmbeddingStore, writer: PassWriter, kit: Any) -> None:
    again = PassWriter(store, kit.spec(), Pass(PLAN.outputs, 99, 99, "another processor"))
    assert again.plan == writer.plan == PLAN


def test_descriptions_split_no_teacher(store: EmbeddingStore, writer: PassWriter, rows: SlotRows, kit: Any) -> None:
    writer.write(store.slots[0], rows, {})
    moved = kit.spec(source="elsewhere", libraries=(("torch", "9.9"),))
    assert PassWriter(store, moved, PLAN).is_committed(store.slots[0])
    assert open_store(store.storage).teacher().spec.source == "a folder"


@pytest.mark.parametrize(
    ("spec", "plan", "error", "says"),
    [
        ({}, Pass(("text",), 8, 1, "x"), StoreError, "has no output 'text'; it has: cls, pooled, logits"),
        ({}, Pass(("cls", "cls"), 8, 1, "x"), FormatError, "different outputs"),
        ({}, Pass(("cls",), 8, 1, "x", views=2), FormatError, "2 views"),
        ({"outputs": (OutputSpec("cls", 8, "int4"),)}, Pass(("cls",), 8, 1, "x"), FormatError, "got 'int4'"),
        ({"outputs": (OutputSpec("classes", 8),)}, Pass(("classes",), 8, 1, "x"), FormatError, "output name"),
        ({"outputs": (OutputSpec("../x", 8),)}, Pass(("../x",), 8, 1, "x"), FormatError, "output name"),
        ({"outputs": (OutputSpec("cls", 1 << 20),)}, Pass(("cls",), 8, 1, "x"), FormatError, "width"),
    ],
)
def test_passes_that_the_format_cannot_hold(
    store: EmbeddingStore, kit: Any, spec: dict[str, Any], plan: Pass, error: type[Exception], says: str
) -> None:
    before = kit.files(store)
    with pytest.raises(error, match=says):
        PassWriter(store, kit.spec(**spec), plan)
    assert kit.files(store) == before


@pytest.mark.parametrize("name", ["rows/zarr.json", "rows/key/zarr.json", "teachers/zarr.json"])
def test_a_writer_does_not_go_on_with_damaged_metadata(
    store: EmbeddingStore, writer: PassWriter, kit: Any, name: str
) -> None:
    path = Path(store.storage.url, name)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=name):
        PassWriter(store, kit.spec(), PLAN)


def test_a_writer_leaves_another_teacher_or_pass_alone(store: EmbeddingStore, writer: PassWriter, kit: Any) -> None:
    folder = Path(store.storage.url, "teachers", kit.spec().teacher_id)
    other = PassWriter(store, kit.spec("vit:Other", "1"), Pass(("cls",), 8, 1, "x"))
    theirs = Path(store.storage.url, "teachers", kit.spec("vit:Other", "1").teacher_id)
    mine = (folder / "zarr.json").read_bytes()
    (folder / "zarr.json").write_bytes((theirs / "zarr.json").read_bytes())
    with pytest.raises(ConflictError, match="another teacher"):
        PassWriter(store, kit.spec(), PLAN)
    (folder / "zarr.json").write_bytes(mine)
    (folder / PLAN.pass_id / "pass.json").write_bytes((theirs / other.plan.pass_id / "pass.json").read_bytes())
    with pytest.raises(IntegrityError, match="of other outputs"):
        PassWriter(store, kit.spec(), PLAN)
