"""Two writers on one slot, at once or one after the other: one commit, and nothing is ever changed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.errors import ConflictError, IntegrityError
from embedkd.records import RowStatus
from embedkd.store import EmbeddingStore, Pass, PassWriter, SlotRows, open_store
from tests.store.samples import encoded


def _near(rows: SlotRows, by: float) -> SlotRows:
    """The same rows as another machine would compute them."""
    rng = np.random.default_rng(0)
    outputs = {name: (r + by * rng.normal(size=r.shape)).astype(np.float32) for name, r in rows.outputs.items()}
    return replace(rows, outputs=outputs)


def test_an_equal_second_writer_changes_nothing(
    writer: PassWriter, store: EmbeddingStore, rows: SlotRows, kit: Any
) -> None:
    first = writer.write(store.slots[0], rows, {"n": 1})
    before = kit.files(store)
    assert writer.write(store.slots[0], rows, {"n": 2}) == first
    assert kit.files(store) == before


def test_a_near_second_writer_commits_what_is_there(
    writer: PassWriter, store: EmbeddingStore, rows: SlotRows, kit: Any
) -> None:
    slot = store.slots[0]
    first = writer.write(slot, rows, {"n": 1})
    (key,) = [name for name in kit.files(store) if name.endswith("/commits/0.json")]
    before = kit.files(store)
    Path(store.storage.url, key).unlink()  # as if the first had been killed just before its commit
    near = _near(rows, 1e-3)
    second = PassWriter(store, kit.spec(), kit.plan).write(slot, near, {"n": 2})
    assert second.objects == first.objects
    assert second.attempt["n"] == 2
    assert {n: d for n, d in kit.files(store).items() if n != key} == {n: d for n, d in before.items() if n != key}
    assert (
        open_store(store.storage).teacher().read(0, "cls").rows.tobytes()
        == encoded(rows.outputs["cls"], rows.status["cls"], "float16")[0].tobytes()
    )


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("what", ["other rows", "far rows", "another scale", "keys", "labels", "a lost row", "a nan"])
def test_a_different_second_writer_is_refused_and_changes_nothing(
    writer: PassWriter, store: EmbeddingStore, rows: SlotRows, what: str, committed: bool, kit: Any
) -> None:
    slot = store.slots[0]
    writer.write(slot, rows, {})
    if not committed:
        next(Path(store.storage.url).rglob("commits/0.json")).unlink()
    before = kit.files(store)
    lost = rows.status["cls"].copy()
    lost[0] = RowStatus.FIELD_MISSING
    broken = rows.outputs["cls"].copy()
    broken[3, 2] = np.nan
    other = {
        "other rows": replace(rows, outputs={name: -r for name, r in rows.outputs.items()}),
        "far rows": _near(rows, 0.1),
        "another scale": replace(rows, outputs={name: r * 2 for name, r in rows.outputs.items()}),
        "keys": replace(rows, keys=rows.keys[::-1].copy()),
        "labels": replace(rows, labels=np.where(rows.labels == 0, 1, rows.labels).astype(np.int32)),
        "a lost row": replace(rows, status={**rows.status, "cls": lost}),
        "a nan": replace(rows, outputs={**rows.outputs, "cls": broken}),
    }[what]
    with pytest.raises(ConflictError, match="use another --out"):
        writer.write(slot, other, {})
    assert kit.files(store) == before


def test_an_object_that_was_removed_behind_its_commit_is_not_replaced_by_a_near_one(
    writer: PassWriter, store: EmbeddingStore, rows: SlotRows
) -> None:
    writer.write(store.slots[0], rows, {})
    root = Path(store.storage.url)
    next(root.glob("teachers/*/cls/c/0/0")).unlink()
    with pytest.raises(ConflictError, match="names other objects than are there now; remove it"):
        writer.write(store.slots[0], _near(rows, 1e-3), {})
    with pytest.raises(IntegrityError, match="not the one that was recorded"):
        open_store(root).teacher().read(0, "cls")
    next(root.glob("teachers/*/pass-*/commits/0.json")).unlink()
    writer.write(store.slots[0], _near(rows, 1e-3), {})
    assert open_store(root).teacher().read(0, "cls").rows.shape == (8, 6)


def test_a_stalled_writer_that_wakes_up_after_the_commit_changes_nothing(
    store: EmbeddingStore, writer: PassWriter, rows: SlotRows, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stalled one has just looked, found nothing there, and is about to put each object."""
    slot, put = store.slots[0], store.storage.put_new
    other = PassWriter(store, kit.spec(), kit.plan)
    after: dict[str, bytes] = {}

    def stalling(key: str, data: bytes) -> None:
        if not after:
            monkeypatch.setattr(store.storage, "put_new", put)
            other.write(slot, rows, {"n": "the other"})
            after.update(kit.files(store))
        put(key, data)

    monkeypatch.setattr(store.storage, "put_new", stalling)
    commit = writer.write(slot, _near(rows, 1e-3), {"n": "the stalled one"})
    assert commit.attempt["n"] == "the other"
    assert kit.files(store) == after


def test_later_teachers_compare_keys(store: EmbeddingStore, writer: PassWriter, rows: SlotRows, kit: Any) -> None:
    slot = store.slots[0]
    writer.write(slot, rows, {})
    spec = kit.spec("vit:Other", "1")
    other = PassWriter(store, spec, Pass(("cls",), 8, 1, "a processor"))
    said = kit.rows(slot, spec, ("cls",))
    with pytest.raises(ConflictError, match=r"rows/label/c/0 is there with other values"):
        other.write(slot, replace(said, labels=np.zeros(8, np.int32)), {})
    other.write(slot, said, {})


def test_two_passes_may_cover_one_output(store: EmbeddingStore, kit: Any) -> None:
    """Two writers that asked for different outputs at the same moment: each slot is read by whichever commit it has."""
    spec = kit.spec()
    for outputs, slots in ((("cls",), store.slots[:2]), (("cls", "pooled"), store.slots[1:])):
        writer = PassWriter(store, spec, Pass(outputs, 8, 1, "x"))
        for slot in slots:
            writer.write(slot, kit.rows(slot, spec, outputs), {})
    view = open_store(store.storage).teacher()
    assert view.holes("cls") == ()
    assert [slot.index for slot in view.holes("pooled")] == [0]
    assert [view.read(slot, "cls").rows.shape[0] for slot in store.slots] == [slot.rows for slot in store.slots]


WRITER = """
import random, sys
from pathlib import Path
import numpy as np
from embedkd.records import DecodePolicy, OutputSpec, Preprocess, Shard, TeacherSpec
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, SlotRows, create_store

folder, number = Path(sys.argv[1]), int(sys.argv[2])
shards = tuple(Shard(f"{i}.tar", "train", 1024, 5 + i, f"{i:064x}") for i in range(6))
preprocess = Preprocess(8, (8, 8), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
outputs = (OutputSpec("cls", 6), OutputSpec("pooled", 3, "float32"))
spec = TeacherSpec("vit:x", "x", "0" * 64, outputs, preprocess, False, "float32", "here")
print("ready", flush=True)
sys.stdin.readline()
store = create_store(LocalStorage(folder), shards, root=".", classes=None, policy=DecodePolicy())
writer = PassWriter(store, spec, Pass(("cls", "pooled"), 8, 1, "x"))
slots = list(store.slots)
random.Random(number).shuffle(slots)
for slot in slots:
    rng = np.random.default_rng(slot.index)
    rows = {o.name: rng.normal(size=(slot.rows, o.dim)).astype(np.float32) for o in outputs}
    keys, ones = np.arange(slot.rows, dtype=np.uint64), np.ones(slot.rows, np.uint8)
    source = {"url": slot.shard.url, "bytes": 1024, "blake2b": slot.shard.blake2b}
    places = np.stack([keys * 100, 0 * keys + 100, keys], axis=1)
    made = SlotRows(keys, ones.astype(np.int32), places, rows, dict.fromkeys(rows, ones), source)
    writer.write(slot, made, {"writer": number})
"""


def _start(folder: Path, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(number)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _run(processes: list[subprocess.Popen[str]]) -> None:
    """Let them begin together, and wait for all."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in processes] == [""] * len(processes)
    assert [process.returncode for process in processes] == [0] * len(processes)


def test_four_processes_at_once_end_with_the_bytes_of_one(tmp_path: Path, kit: Any) -> None:
    _run([*(_start(tmp_path / "four.zarr", number) for number in range(4)), _start(tmp_path / "one.zarr", 4)])
    four, one = open_store(tmp_path / "four.zarr"), open_store(tmp_path / "one.zarr")
    ours, theirs = kit.files(four), kit.files(one)
    assert ours.keys() == theirs.keys(), "nothing is left over, and each slot has one commit"
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert all(name in {"zarr.json", "manifest/0.json"} or "/commits/" in name for name in differing)
    for slot in four.slots:
        commits = [store.teacher().commit(slot, "cls") for store in (four, one)]
        assert commits[0] is not None
        assert commits[1] is not None
        assert replace(commits[0], attempt={}) == replace(commits[1], attempt={})
        four.teacher().read(slot, "pooled")
