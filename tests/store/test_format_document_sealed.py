"""docs/store-format.md, 5.6 and 5.7, are enough: a reader of sealed stores that never lists and opens no commit.

Like `test_format_document`, whose reader it extends, it knows nothing of embedkd.
"""

import base64
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.records import Shard  # for the tests at the end; the reader does not use it
from embedkd.storage import LocalStorage
from embedkd.store import append_shards, open_store, seal_store
from tests.store.test_format_document import Store, canonical, digest, require


def numbers(column: str, dtype: str) -> Any:
    return np.frombuffer(base64.b64decode(column, validate=True), dtype)


def digests(column: str) -> list[str]:
    data = base64.b64decode(column, validate=True)
    return [data[at : at + 32].hex() for at in range(0, len(data), 32)]


class SealedStore(Store):
    """The state that the newest catalogue names."""

    def __init__(self, folder: Path) -> None:
        newest = 0
        while (folder / f"sealed/{newest + 1}.json").exists():
            newest += 1
        self.folder = folder
        self.catalogue = self.document(f"sealed/{newest}.json")
        require(self.catalogue["number"] == newest)
        super().__init__(folder)
        self.metadata("sealed", "uint8", [0], [1])
        require(self.catalogue["store_uuid"] == self.root["store_uuid"])
        named = self.sealed_digest(f"manifest/{self.catalogue['generation']}.json")
        require(named == self.catalogue["manifest"])
        if self.manifest["generation"] == self.catalogue["generation"] + 1:
            require(self.manifest["previous"] == self.catalogue["manifest"])

    def sealed_digest(self, key: str) -> str:
        value = json.loads(self.get(key))
        found = value["attributes"]["embedkd"]["digest"] if key.endswith("zarr.json") else value["digest"]
        require(isinstance(found, str))
        return str(found)

    def metadata(self, folder: str, dtype: str, shape: list[int], chunk: list[int], mark: str = "") -> None:
        """Arrays of rows may have the length of another generation."""
        if shape[0] == len(self.slots) * chunk[0] and shape[0]:
            earlier = [self.document(f"manifest/{g}.json") for g in range(self.manifest["generation"])]
            lengths = [shape[0], *(len(manifest["slots"]) * chunk[0] for manifest in earlier)]
            found = json.loads(self.get(f"{folder}/zarr.json"))["shape"][0]
            require(found in lengths)
            shape = [found, *shape[1:]]
        super().metadata(folder, dtype, shape, chunk, mark)

    def commit(self, name: str, output: str, slot: int) -> dict[str, Any]:
        teacher = self.catalogue["teachers"][name]
        require(teacher["group"] == self.sealed_digest(f"teachers/{name}/zarr.json"))
        for pass_id, facts in teacher["passes"].items():
            folder = f"teachers/{name}/{pass_id}"
            plan = self.document(f"{folder}/pass.json")
            require(self.sealed_digest(f"{folder}/pass.json") == facts["pass"] == digest(canonical(plan)))
            if output in plan["outputs"] and facts["index"] is not None:
                key = f"{folder}/sealed/{facts['index']['number']}.json"
                require(self.sealed_digest(key) == facts["index"]["digest"])
                index = self.document(key)
                slots = numbers(index["slots"], "<u4").tolist()
                require(slots == sorted(set(slots)))
                require(len(slots) == facts["index"]["slots"])
                self.check_joined(facts["index"]["error"], index["error"])
                if slot in slots:
                    return self.from_index(name, plan, index, slots, slots.index(slot))
        raise ValueError("a hole")

    def check_joined(self, joined: Any, columns: Any) -> None:
        """5.7: what the catalogue says of errors is what the columns add up to."""
        for output, error in joined.items():
            mean, most = (numbers(columns[output][part], "<f8") for part in ("mean", "max"))
            counts = numbers(columns[output]["histogram"], "<u2").reshape(-1, 11)
            rows = counts.sum(axis=1)
            require(error["histogram"] == counts.sum(axis=0).tolist())
            require(error["max"] == most.max())
            require(bool(np.isclose(error["mean"], (mean * rows).sum() / max(rows.sum(), 1), rtol=6e-3)))

    def from_index(self, name: str, plan: Any, index: Any, slots: list[int], at: int) -> dict[str, Any]:
        require(index["pass_digest"] == digest(canonical(plan)))
        require(index["fingerprint"] == self.teacher(name)["fingerprint"])
        require(index["decode"] == digest(canonical(self.root["decode"])))
        sources = b"".join(
            struct.pack("<4Q", number, *(self.slots[number][m] for m in ("bytes", "start", "n")))
            + bytes.fromhex(self.slots[number]["blake2b"])
            for number in slots
        )
        require(index["sources"] == digest(sources))
        require(set(index["ok"]) == set(index["bad"]) == set(plan["outputs"]))
        ok = {o: int(numbers(index["ok"][o], "<u4")[at]) for o in plan["outputs"]}
        bad = {
            o: {r: int(n) for r, c in index["bad"][o].items() if (n := numbers(c, "<u4")[at])} for o in plan["outputs"]
        }
        for o in plan["outputs"]:
            require(ok[o] + sum(bad[o].values()) == self.slots[slots[at]]["n"])
        number = slots[at]
        keys = self.object_keys(name, plan["outputs"], number)
        require(len(index["objects"]) == len(keys))
        columns = {
            o: {part: numbers(index["error"][o][part], "<f8") for part in ("mean", "max")} for o in plan["outputs"]
        }
        counts = {o: numbers(index["error"][o]["histogram"], "<u2").reshape(-1, 11) for o in plan["outputs"]}
        error = {
            o: {part: float(column[at]) for part, column in columns[o].items()} | {"histogram": counts[o][at].tolist()}
            for o in plan["outputs"]
        }
        self.check_errors({"error": error, "ok": ok}, plan["outputs"])
        return {
            "error": error,
            "digest": digests(index["commits"])[at],
            "keys": digests(index["keys"])[at],
            "labelled": numbers(index["labelled"], "<u4")[at],
            "max_label": numbers(index["max_label"], "<i4")[at],
            "ok": ok,
            "bad": bad,
            "objects": [
                {
                    "key": key,
                    "bytes": numbers(o["bytes"], "<u4")[at],
                    "crc32c": numbers(o["crc32c"], "<u4")[at],
                    "blake2b": digests(o["blake2b"])[at],
                }
                for key, o in zip(keys, index["objects"], strict=True)
            ],
        }


# Here the reader ends. What follows may know embedkd.


@pytest.fixture(params=["sealed", "sealed and appended", "appended and half extended"])
def folder(whole_store: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = Path(shutil.copytree(whole_store, tmp_path / "s"))
    seal_store(LocalStorage(folder))
    short = (folder / "rows/key/zarr.json").read_bytes()
    if request.param != "sealed":
        append_shards(LocalStorage(folder), (Shard("train-2.tar", "train", 4_096, 10, "e" * 64),))
    if request.param == "appended and half extended":
        (folder / "rows/key/zarr.json").write_bytes(short)
    return folder


def test_the_reader_of_the_page_reads_a_sealed_store(folder: Path, whole_store: Path) -> None:
    ours = open_store(whole_store)
    commits = {
        path.relative_to(folder).as_posix(): json.loads(path.read_bytes()) for path in folder.glob("*/*/*/commits/*")
    }
    for key in commits:
        (folder / key).unlink()
    theirs = SealedStore(folder)
    assert sorted(theirs.catalogue["teachers"]) == list(ours.teacher_ids)
    for teacher_id in ours.teacher_ids:
        view = ours.teacher(teacher_id)
        for output in view.outputs:
            for slot in range(len(ours.slots)):
                read = view.read(slot, output)
                rows, status, keys, labels, places = theirs.read(teacher_id, output, slot)
                assert rows.tobytes() == read.rows.tobytes()
                np.testing.assert_array_equal(status, read.status)
                np.testing.assert_array_equal(keys, read.keys)
                np.testing.assert_array_equal(labels, read.labels)
                np.testing.assert_array_equal(places, read.places)
                found = theirs.commit(teacher_id, output, slot)
                written = [c for k, c in commits.items() if teacher_id in k and c["digest"] == found["digest"]]
                assert [c["slot"] for c in written] == [slot]
                assert all(written[0][name] == found[name] for name in ("keys", "ok", "bad", "error", "objects"))


def test_the_reader_of_the_page_reads_a_sealed_store_of_every_encoding(encoded_store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoded_store, tmp_path / "e"))
    seal_store(LocalStorage(folder))
    append_shards(LocalStorage(folder), (Shard("train-9.tar", "train", 4_096, 10, "e" * 64),))
    theirs, view = SealedStore(folder), open_store(encoded_store).teacher()
    for output in view.outputs:
        for slot in range(len(view.store.slots)):
            found = theirs.read(view.teacher_id, output, slot)[0]
            np.testing.assert_allclose(found, view.read(slot, output).rows, rtol=1e-6)


def test_the_digest_of_a_seal_is_that_of_all_that_it_names(folder: Path) -> None:
    theirs = SealedStore(folder)
    teachers = theirs.catalogue["teachers"]
    for teacher_id, facts in teachers.items():
        for name, outputs in facts["classes"].items():
            for output, found in outputs.items():
                assert found == theirs.sealed_digest(f"teachers/{teacher_id}/classes/{name}/{output}/zarr.json")
    assert any(facts["classes"] for facts in teachers.values())
    assert theirs.sealed_digest("sealed/0.json") == digest(canonical(theirs.catalogue))
