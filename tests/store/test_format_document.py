"""docs/store-format.md is enough: a reader made from that page alone, and what it reads of a store of ours.

The reader knows nothing of embedkd: it uses json, hashlib, numpy and a Blosc decoder. So it is also the proof that all
checks that the page asks for can be made with what a store holds.
"""

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numcodecs.blosc import Blosc

from embedkd.records import ViewSpec  # this and what follows: for the tests at the end; the reader does not use it
from embedkd.store import open_store
from tests.store.conftest import ENCODED
from tests.store.samples import SHARDS, make

TYPES = {"float16": "<f2", "float32": "<f4", "uint8": "u1", "int8": "i1", "uint16": "<u2", "int32": "<i4"}
TYPES |= {"int64": "<i8", "uint64": "<u8"}
FILLS = {"float16": "NaN", "float32": "NaN", "int32": -1, "int8": -128, "uint16": 32704}
SHELF = ("uint8", [0], [1])
SAMPLES = [("rows/key", 1), ("rows/label", 1), ("rows/place", 2)]  # and how many axes they have
DECIDING = {
    *("model", "weights_sha256", "outputs", "preprocess", "normalised"),
    *("precision", "logit_scale", "logit_bias", "random_weights", "layers", "tokenizer", "view"),
}
STATUSES = {"decode_error": 2, "field_missing": 3, "non_finite": 4, "dropped": 5}


def canonical(value: Any) -> bytes:
    """Section 2.1; Python's json and repr do exactly that."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes, size: int = 32, key: bytes = b"") -> str:
    return hashlib.blake2b(data, digest_size=size, key=key).hexdigest()


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def require(condition: bool) -> None:
    if not condition:
        raise ValueError("not a sound store")


class Store:
    """Section 8, check by check."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = self.group("zarr.json")
        self.capacity = self.root["capacity"]
        require(self.capacity in {1 << power for power in range(15)})
        newest = max(int(p.stem) for p in (folder / "manifest").glob("*.json") if p.name != "zarr.json")
        self.manifest = self.document(f"manifest/{newest}.json")
        require(self.manifest["store_uuid"] == self.root["store_uuid"])
        require(self.manifest["generation"] == newest)
        self.slots = self.manifest["slots"]
        at = 0
        while at < len(self.slots):
            first = self.slots[at]
            for start in range(0, max(first["rows"], 1), self.capacity):
                n = min(self.capacity, first["rows"] - start)
                require(self.slots[at] == {**first, "start": start, "n": n})
                at += 1
        for folder_name in ("rows", "teachers"):
            self.plain(folder_name)
        self.metadata("manifest", *SHELF)

    def get(self, key: str) -> bytes:
        return (self.folder / key).read_bytes()

    def document(self, key: str) -> dict[str, Any]:
        data = self.get(key)
        value: dict[str, Any] = json.loads(data)
        require(value["format"] == 1)
        seal = b'"digest":"%s",' % value.pop("digest").encode()
        require(data == canonical(value | {"digest": digest(canonical(value))}))
        require(data.replace(seal, b"", 1) == canonical(value))
        return value

    def group(self, key: str) -> dict[str, Any]:
        data = self.get(key)
        value: dict[str, Any] = json.loads(data)["attributes"]["embedkd"]
        require(value["format"] == 1)
        del value["digest"]
        sealed = {"embedkd": value | {"digest": digest(canonical(value))}}
        require(data == canonical({"attributes": sealed, "node_type": "group", "zarr_format": 3}))
        return value

    def plain(self, folder: str) -> None:
        require(self.get(f"{folder}/zarr.json") == b'{"attributes":{},"node_type":"group","zarr_format":3}')

    def metadata(self, folder: str, dtype: str, shape: list[int], chunk: list[int], mark: str = "") -> None:
        size = np.dtype(TYPES[dtype]).itemsize
        blosc = {"typesize": size, "cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
        endian = {"configuration": {"endian": "little"}} if size > 1 else {}
        expected = {
            "zarr_format": 3,
            "node_type": "array",
            "attributes": {"embedkd": {"encoding": mark}} if mark else {},
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": FILLS.get(dtype, 0),
            "codecs": [{"name": "bytes", **endian}, {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}],
        }
        require(self.get(f"{folder}/zarr.json") == canonical(expected))

    def chunk(self, folder: str, dtype: str, chunk: list[int], slot: int, records: list[Any]) -> Any:
        (record,) = (r for r in records if r["key"] == "/".join([folder, "c", str(slot), *["0"] * (len(chunk) - 1)]))
        data = self.get(record["key"])
        frame, trailer = data[:-4], int.from_bytes(data[-4:], "little")
        require(len(data) == record["bytes"])
        require(trailer == record["crc32c"] == crc32c(frame))
        require(digest(data) == record["blake2b"])
        size = np.dtype(TYPES[dtype]).itemsize
        require((frame[0], frame[1], frame[2] >> 5, frame[3]) == (2, 1, 1, size))
        require(int.from_bytes(frame[4:8], "little") == math.prod(chunk) * size)
        require(int.from_bytes(frame[12:16], "little") == len(frame))
        return np.frombuffer(Blosc().decode(frame), TYPES[dtype]).reshape(chunk)

    def teacher(self, name: str) -> dict[str, Any]:
        facts = self.group(f"teachers/{name}/zarr.json")
        spec = facts["spec"]
        require(facts["fingerprint"] == digest(canonical({m: spec[m] for m in DECIDING & spec.keys()})))
        bare = re.sub(r"[^A-Za-z0-9.-]", "-", spec["name"].split("@")[0]).strip("-.").lower()[-80:]
        require(name == f"{bare}-{facts['fingerprint'][:8]}")
        return facts

    def passes(self, name: str, output: str) -> list[str]:
        found = []
        for folder in sorted((self.folder / "teachers" / name).glob("pass-*")):
            plan = self.document(f"teachers/{name}/{folder.name}/pass.json")
            require(plan["views"] == 1)
            require(folder.name == "pass-" + digest(canonical([plan["outputs"], 1]))[:8])
            self.metadata(f"teachers/{name}/{folder.name}", *SHELF)
            found += [folder.name] if output in plan["outputs"] else []
        return found

    def commit(self, name: str, output: str, slot: int) -> dict[str, Any]:
        for folder in self.passes(name, output):
            key = f"teachers/{name}/{folder}/commits/{slot}.json"
            if (self.folder / key).exists():
                plan = self.document(f"teachers/{name}/{folder}/pass.json")
                commit = self.document(key)
                here, outputs = self.slots[slot], plan["outputs"]
                require(commit["slot"] == slot)
                require(commit["pass_digest"] == digest(canonical(plan)))
                require(commit["fingerprint"] == self.teacher(name)["fingerprint"])
                require(commit["decode"] == digest(canonical(self.root["decode"])))
                require(commit["rows"] == here["n"])
                require(
                    {k: commit["source"][k] for k in ("bytes", "blake2b")} == {k: here[k] for k in ("bytes", "blake2b")}
                )
                require(set(commit["ok"]) == set(commit["bad"]) == set(outputs))
                for name_of in outputs:
                    require(commit["ok"][name_of] + sum(commit["bad"][name_of].values()) == here["n"])
                self.check_errors(commit, outputs)
                require([r["key"] for r in commit["objects"]] == self.object_keys(name, outputs, slot))
                return commit
        raise ValueError("a hole")

    def check_errors(self, commit: dict[str, Any], outputs: list[str]) -> None:
        require(set(commit["error"]) == set(outputs))
        for name, error in commit["error"].items():
            require(len(error["histogram"]) == 11)
            require(sum(error["histogram"]) == commit["ok"][name])
            require(0 <= error["mean"] <= error["max"] <= 2)

    def output(self, name: str, output: str) -> dict[str, Any]:
        (spec,) = (o for o in self.teacher(name)["spec"]["outputs"] if o["name"] == output)
        return dict(spec)

    def arrays(self, name: str, output: str) -> list[tuple[str, str, list[int], list[int], str]]:
        """5.4: folder, type, shape, chunk and mark of each array of an output, its status last."""
        spec = self.output(name, output)
        base, cap, slots = f"teachers/{name}/{output}", self.capacity, len(self.slots)
        dim, encoding = spec["dim"], spec["encoding"]
        rows, status = [slots * cap, dim], (f"{base}_status", "uint8", [slots * cap], [cap], "")
        if encoding in {"float16", "float32"}:
            return [(base, encoding, rows, [cap, dim], ""), status]
        if encoding == "bfloat16":
            return [(base, "uint16", rows, [cap, dim], encoding), status]
        if encoding == "int8":
            scale = (f"{base}_scale", "float32", [slots, dim], [1, dim], encoding)
            return [scale, (base, "int8", rows, [cap, dim], encoding), status]
        found = re.fullmatch("top([1-9][0-9]*)", encoding)
        require(found is not None and output == "logits" and 1 <= int(found[1]) < dim)
        k = int(found[1]) if found else 0
        parts = [(f"{base}_topk_{part}", dtype) for part, dtype in (("index", "int32"), ("value", "float16"))]
        return [*((folder, dtype, [slots * cap, k], [cap, k], encoding) for folder, dtype in parts), status]

    def object_keys(self, name: str, outputs: list[str], slot: int) -> list[str]:
        arrays = [array for output in outputs for array in self.arrays(name, output)]
        mine = [(folder, len(chunk)) for folder, _, _, chunk, _ in arrays]
        return ["/".join([f, "c", str(slot), *["0"] * (d - 1)]) for f, d in [*SAMPLES, *mine]]

    def read(self, name: str, output: str, slot: int) -> tuple[Any, Any, Any, Any, Any]:
        """Decoded rows, status, key hashes, labels and places."""
        total, n, cap = len(self.slots) * self.capacity, self.slots[slot]["n"], self.capacity
        commit = self.commit(name, output, slot)
        parts = []
        for folder, dtype, shape, chunk, mark in (
            *self.arrays(name, output),
            ("rows/key", "uint64", [total], [cap], ""),
            ("rows/label", "int32", [total], [cap], ""),
            ("rows/place", "uint64", [total, 3], [cap, 3], ""),
        ):
            self.metadata(folder, dtype, shape, chunk, mark)
            whole = self.chunk(folder, dtype, chunk, slot, commit["objects"])
            parts.append(whole if folder.endswith("_scale") else whole[:n])
        *stored, status, keys, labels, places = parts
        rows = decoded(self.output(name, output), stored, status == 1)
        require(digest(keys.tobytes()) == commit["keys"])
        require(((labels >= 0).sum(), labels.max(initial=-1)) == (commit["labelled"], commit["max_label"]))
        counts = {name_of: int((status == code).sum()) for name_of, code in STATUSES.items()}
        require({k: v for k, v in counts.items() if v} == commit["bad"][output])
        end = 0
        for offset, size, checksum in places.tolist():
            require(offset >= end and size > 0 and checksum < 1 << 32)
            end = offset + size
        require(end <= self.slots[slot]["bytes"])
        require(np.array_equal(np.isfinite(rows).all(axis=1), status == 1))
        return rows, status, keys, labels, places

    def class_set(self, name: str, set_name: str, output: str) -> tuple[dict[str, Any], Any, Any, Any]:
        """Facts, mean, count and spread."""
        shelf = f"teachers/{name}/classes"
        self.plain(shelf)
        self.plain(f"{shelf}/{set_name}")
        base = f"{shelf}/{set_name}/{output}"
        facts = self.group(f"{base}/zarr.json")
        (spec,) = (o for o in self.teacher(name)["spec"]["outputs"] if o["name"] == output)
        require((facts["set"], facts["output"]) == (set_name, output))
        require(facts["fingerprint"] == self.teacher(name)["fingerprint"])
        classes, arrays = facts["classes"], []
        for part, dtype, shape in (
            ("mean", "float32", [classes, spec["dim"]]),
            ("count", "int64", [classes]),
            ("spread", "float32", [classes]),
        ):
            self.metadata(f"{base}/{part}", dtype, shape, shape)
            arrays.append(self.chunk(f"{base}/{part}", dtype, shape, 0, [facts["arrays"][part]]))
        return facts, *arrays


def decoded(spec: dict[str, Any], arrays: list[Any], ok: Any) -> Any:
    """Section 5.4: rows, NaN where they are absent."""
    encoding = spec["encoding"]
    if encoding.startswith("float"):
        return arrays[0]
    if encoding == "bfloat16":
        return (arrays[0].astype("<u4") << 16).view("<f4")
    if encoding == "int8":
        scale, codes = arrays
        require(bool(((scale >= 0) & (scale <= np.finfo(np.float32).max / 127)).all()))
        require(bool(((codes == -128) == ~ok[:, None]).all()))
        return np.where(ok[:, None], codes.astype(np.float32) * scale, np.float32(np.nan))
    index, values = arrays
    rows = np.full((len(ok), spec["dim"]), np.nan, np.float32)
    for at in range(len(ok)):
        if not ok[at]:
            require(bool((index[at] == -1).all() and np.isnan(values[at]).all()))
            continue
        places, logs = index[at].tolist(), values[at].astype(np.float64).tolist()
        require(len(set(places)) == len(places) and min(places) >= 0 and max(places) < spec["dim"])
        require(logs == sorted(logs, reverse=True) and logs[-1] > -math.inf and logs[0] <= 0)
        shares = [math.exp(log) for log in logs]
        require(sum(shares) <= 1.01)
        rest = max(1 - sum(shares), 2.0**-24) / (spec["dim"] - len(places))
        rows[at] = min(math.log(rest), logs[-1])
        rows[at][places] = logs
    return rows


def averaged(store: Store, name: str, output: str, n: int, seed: int) -> dict[int, tuple[Any, int]]:
    """Section 6: choice and sums."""
    ranked: dict[int, list[Any]] = {}
    for slot, facts in enumerate(store.slots):
        if facts["split"] == "train":
            rows, status, keys, labels, _ = store.read(name, output, slot)
            for at in range(len(rows)):
                if status[at] == 1 and labels[at] >= 0:
                    rank = bytes.fromhex(digest(keys[at].tobytes(), 8, str(seed).encode()))
                    place = (int.from_bytes(rank, "little"), slot, at)
                    ranked.setdefault(int(labels[at]), []).append((place, rows[at].astype(np.float64)))
    means = {}
    for label, found in ranked.items():
        chosen = sorted(sorted(found, key=lambda f: f[0])[:n], key=lambda f: f[0][1:])
        total = sum((row for _, row in chosen), np.zeros(chosen[0][1].shape))
        means[label] = ((total / len(chosen)).astype(np.float32), len(chosen))
    return means


# Here the reader ends. What follows may know embedkd.


@pytest.fixture
def theirs(whole_store: Path) -> Store:
    return Store(whole_store)


def test_the_reader_of_the_page_reads_every_encoding(encoded_store: Path) -> None:
    theirs, view = Store(encoded_store), open_store(encoded_store).teacher()
    assert {output.encoding for output in view.spec.outputs} == {"float16", "bfloat16", "int8", "top3"}
    for output in view.outputs:
        for slot in range(len(theirs.slots)):
            read, found = view.read(slot, output), theirs.read(view.teacher_id, output, slot)[0]
            np.testing.assert_allclose(found, read.rows, rtol=1e-6)
            if output != "logits":  # sums of exponentials may differ in the last bit
                assert found.tobytes() == read.rows.tobytes()


def test_the_reader_of_the_page_reads_what_we_read(theirs: Store, whole_store: Path) -> None:
    ours = open_store(whole_store)
    assert sorted(p.name for p in (whole_store / "teachers").iterdir() if p.is_dir()) == list(ours.teacher_ids)
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


def test_the_reader_of_the_page_reads_stored_views(tmp_path: Path) -> None:
    view = replace(ENCODED, view=ViewSpec(5, 2, 0.25, 0.5))
    ours = make(tmp_path / "s", {ENCODED: (("cls",),), view: (("cls",),)}, SHARDS[:1])
    rows = [Store(tmp_path / "s").read(spec.teacher_id, "cls", 0)[0] for spec in (ENCODED, view)]
    said = [ours.read(0, "cls", teacher=spec.teacher_id).rows for spec in (ENCODED, view)]
    assert [found.tobytes() for found in rows] == [found.tobytes() for found in said]
    assert rows[0].tobytes() != rows[1].tobytes()


def test_the_reader_of_the_page_makes_our_class_means(theirs: Store, whole_store: Path) -> None:
    for teacher_id in open_store(whole_store).teacher_ids:
        made = open_store(whole_store).teacher(teacher_id).class_set(None, "cls")
        facts, mean, count, spread = theirs.class_set(teacher_id, "n2-seed0", "cls")
        np.testing.assert_array_equal(mean, made.mean)
        np.testing.assert_array_equal(count, made.count)
        np.testing.assert_array_equal(spread, made.spread)
        means = averaged(theirs, teacher_id, "cls", facts["samples_per_class"], facts["seed"])
        for label, (row, rows) in means.items():
            assert row.tobytes() == mean[label].tobytes()
            assert rows == count[label]
        slots = [slot for slot, entry in enumerate(theirs.slots) if entry["split"] == "train"]
        base = f"teachers/{teacher_id}/cls"
        wanted = ("rows/", f"{base}/", f"{base}_status/")
        records = [theirs.commit(teacher_id, "cls", slot)["objects"] for slot in slots]
        named = [[[r["key"], r["blake2b"]] for r in found if r["key"].startswith(wanted)] for found in records]
        listed = [list(pair) for pair in zip(slots, named, strict=True)]
        assert facts["commits"] == digest(canonical(listed))


def test_keys_are_hashed_as_the_page_says(theirs: Store, whole_store: Path) -> None:
    teacher_id = next((whole_store / "teachers").glob("vit-other-*")).name
    keys = theirs.read(teacher_id, "cls", 0)[2]
    assert keys[3].tobytes() == hashlib.blake2b(b"train-0.tar/3", digest_size=8).digest()
