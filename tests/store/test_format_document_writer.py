"""docs/store-format.md is enough: a writer made from that page alone, and a store of its making that we read.

The writer knows nothing of embedkd. It makes the smallest store with everything in it: one teacher, one output, a shard
longer than a slot, a sample without an image, and a class set.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from google_crc32c import value as crc32c
from numcodecs import blosc

from embedkd.records import RowStatus, Shard
from embedkd.store import average, open_store  # for the test at the end; the writer does not use it

PLAIN = {"attributes": {}, "node_type": "group", "zarr_format": 3}
CAPACITY, DIM, LABELS = 4, 3, [0, 1, 0, -1, 1, 1]
TAR = {"url": "a/train-0.tar", "split": "train", "bytes": 10_240, "blake2b": "ab" * 32, "rows": len(LABELS)}
BLOSC = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes, size: int = 32, key: bytes = b"") -> str:
    return hashlib.blake2b(data, digest_size=size, key=key).hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    content = {"format": 1, **content}
    return {**content, "digest": digest(canonical(content))}


class Writer:
    """Sections 2 to 7."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.decode = {"background": [255, 255, 255], "exif": True, "max_pixels": 64_000_000}
        self.group("", {"store_uuid": "of our own", "capacity": CAPACITY, "decode": self.decode, "created": "now"})
        self.array("manifest", "uint8", [0], [1])
        starts = range(0, len(LABELS), CAPACITY)
        self.slots = [{**TAR, "start": start, "n": min(CAPACITY, len(LABELS) - start)} for start in starts]
        manifest = {"store_uuid": "of our own", "generation": 0, "root": "../data", "classes": ["x", "y", "z"]}
        self.put("manifest/0.json", canonical(sealed({**manifest, "slots": self.slots})))

    def put(self, key: str, data: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def group(self, folder: str, attributes: dict[str, Any] | None) -> None:
        attributes = {} if attributes is None else {"embedkd": sealed(attributes)}
        self.put(f"{folder}/zarr.json".lstrip("/"), canonical({**PLAIN, "attributes": attributes}))

    def array(self, folder: str, dtype: str, shape: list[int], chunk: list[int]) -> None:
        size = np.dtype(dtype).itemsize
        endian = {"configuration": {"endian": "little"}} if size > 1 else {}
        metadata = {
            "zarr_format": 3,
            "node_type": "array",
            "attributes": {},
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN" if dtype.startswith("float") else -1 if folder == "rows/label" else 0,
            "codecs": [
                {"name": "bytes", **endian},
                {"name": "blosc", "configuration": {**BLOSC, "typesize": size}},
                {"name": "crc32c"},
            ],
        }
        self.put(f"{folder}/zarr.json", canonical(metadata))

    def chunk(self, folder: str, slot: int, values: Any, fill: float, rows: int) -> dict[str, Any]:
        whole = np.full((rows, *values.shape[1:]), fill, values.dtype.newbyteorder("<"))
        whole[: len(values)] = values
        frame = blosc.Blosc("lz4", 5, blosc.BITSHUFFLE, 0, whole.itemsize).encode(whole.view(np.uint8))
        data = bytes(frame) + crc32c(bytes(frame)).to_bytes(4, "little")
        key = "/".join([folder, "c", str(slot), *["0"] * (whole.ndim - 1)])
        self.put(key, data)
        return {"key": key, "bytes": len(data), "crc32c": crc32c(bytes(frame)), "blake2b": digest(data)}

    def teacher(self, spec: dict[str, Any], describing: set[str]) -> None:
        self.fingerprint = digest(canonical({k: v for k, v in spec.items() if k not in describing}))
        self.base = f"teachers/hf-org-model.v1-{self.fingerprint[:8]}"
        self.group(self.base, {"spec": spec, "fingerprint": self.fingerprint})
        self.group("teachers", None)
        self.group("rows", None)
        total = len(self.slots) * CAPACITY
        self.array("rows/key", "uint64", [total], [CAPACITY])
        self.array("rows/label", "int32", [total], [CAPACITY])
        self.array(f"{self.base}/cls", "float16", [total, DIM], [CAPACITY, DIM])
        self.array(f"{self.base}/cls_status", "uint8", [total], [CAPACITY])
        self.run = f"{self.base}/pass-{digest(canonical([['cls'], 1]))[:8]}"
        self.array(self.run, "uint8", [0], [1])
        self.plan = sealed(
            {"outputs": ["cls"], "views": 1, "batch_size": 4, "threads": 1, "device": "an abacus", "compiled": False}
        )
        self.put(f"{self.run}/pass.json", canonical(self.plan))

    def slot(self, number: int, rows: Any, status: Any, keys: Any, labels: Any) -> list[Any]:
        objects = [
            self.chunk("rows/key", number, keys, 0, CAPACITY),
            self.chunk("rows/label", number, labels, -1, CAPACITY),
            self.chunk(f"{self.base}/cls", number, rows, np.nan, CAPACITY),
            self.chunk(f"{self.base}/cls_status", number, status, 0, CAPACITY),
        ]
        lost = int((status == 3).sum())
        commit = {
            "slot": number,
            "pass_digest": self.plan["digest"],
            "fingerprint": self.fingerprint,
            "decode": digest(canonical(self.decode)),
            "rows": len(rows),
            "keys": digest(keys.tobytes()),
            "source": {name: TAR[name] for name in ("url", "bytes", "blake2b")},
            "labelled": int((labels >= 0).sum()),
            "max_label": int(labels.max()),
            "ok": {"cls": len(rows) - lost},
            "bad": {"cls": {"field_missing": lost} if lost else {}},
            "objects": objects,
            "attempt": {"by": "hand"},
        }
        self.put(f"{self.run}/commits/{number}.json", canonical(sealed(commit)))
        return objects

    def class_set(self, rows: Any, status: Any, keys: Any, n: int, seed: int, objects: list[list[Any]]) -> None:
        mean, count, spread = np.full((3, DIM), np.nan, "<f4"), np.zeros(3, "<i8"), np.full(3, np.nan, "<f4")
        for label in (0, 1):
            ranks = [int.from_bytes(bytes.fromhex(digest(key.tobytes(), 8, b"%d" % seed)), "little") for key in keys]
            usable = [i for i in range(len(rows)) if LABELS[i] == label and status[i] == 1]
            chosen = sorted(sorted(usable, key=lambda i: (ranks[i], i))[:n])
            total = sum((rows[i].astype(np.float64) for i in chosen), np.zeros(DIM))
            exact = total / len(chosen)
            squares = sum(float(((rows[i].astype(np.float64) - exact) ** 2).sum()) for i in chosen)
            mean[label], count[label], spread[label] = exact, len(chosen), np.sqrt(squares / len(chosen))
        shelf, base = f"{self.base}/classes", f"{self.base}/classes/n{n}-seed{seed}/cls"
        self.group(shelf, None)
        self.group(f"{shelf}/n{n}-seed{seed}", None)
        arrays = {}
        for part, values in (("mean", mean), ("count", count), ("spread", spread)):
            self.array(f"{base}/{part}", values.dtype.name, list(values.shape), list(values.shape))
            arrays[part] = self.chunk(f"{base}/{part}", 0, values, 0, 3)
        used = [[slot, [[o["key"], o["blake2b"]] for o in records]] for slot, records in enumerate(objects)]
        facts = {
            "fingerprint": self.fingerprint,
            "set": f"n{n}-seed{seed}",
            "output": "cls",
            "generation": 0,
            "classes": 3,
        }
        how = {
            "samples_per_class": n,
            "seed": seed,
            "commits": digest(canonical(used)),
            "arrays": arrays,
            "prompts": [],
        }
        self.group(base, facts | how)


SPEC = {
    "name": "hf:org/Model.v1",
    "model": "org/Model.v1",
    "weights_sha256": "0" * 64,
    "normalised": False,
    "outputs": [{"name": "cls", "dim": DIM, "dtype": "float16"}],
    "preprocess": {
        "resize_px": [8, 8],
        "crop_px": [8, 8],
        "interpolation": "bicubic",
        "mean": [0.5, 0.25, 1e-05],
        "std": [1.0, 0.5, 0.5],
        "backend": "an abacus",
        "pad_rgb": None,
    },
    "precision": "float32",
    "logit_scale": 100.0,
    "logit_bias": None,
    "random_weights": False,
    "source": "a folder",
    "revision": None,
    "libraries": [["torch", "2.6"]],
    "licence": "MIT",
    "layers": 0,
    "tokenizer": None,
    "derived_from": None,
}


def test_a_store_of_another_team_is_read(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(len(LABELS), DIM)).astype(np.float16)
    status, labels = np.ones(len(LABELS), np.uint8), np.array(LABELS, np.int32)
    status[4], rows[4] = 3, np.nan
    digests = [hashlib.blake2b(f"sample-{i}".encode(), digest_size=8).digest() for i in range(len(LABELS))]
    keys = np.array([int.from_bytes(found, "little") for found in digests], "<u8")
    made = Writer(tmp_path)
    made.teacher(SPEC, {"name", "source", "revision", "libraries", "licence", "derived_from"})
    parts = [slice(start, start + CAPACITY) for start in range(0, len(LABELS), CAPACITY)]
    objects = [made.slot(i, rows[p], status[p], keys[p], labels[p]) for i, p in enumerate(parts)]
    made.class_set(rows, status, keys, 1, 7, objects)

    store = open_store(tmp_path)
    assert store.shards == (Shard("a/train-0.tar", "train", 10_240, len(LABELS), "ab" * 32),)
    view = store.teacher("hf:org/Model.v1")
    assert view.holes("cls") == ()
    for number, part in enumerate(parts):
        read = view.read(number, "cls")
        assert read.rows.tobytes() == rows[part].tobytes()
        np.testing.assert_array_equal(read.status, status[part])
        np.testing.assert_array_equal(read.keys, keys[part])
        np.testing.assert_array_equal(read.labels, labels[part])
    assert view.read(1, "cls").status[0] == RowStatus.FIELD_MISSING
    theirs, ours = view.class_set(None, "cls"), average(view, "cls", samples_per_class=1, seed=7)
    for part_name in ("mean", "count", "spread"):
        np.testing.assert_array_equal(getattr(theirs, part_name), getattr(ours, part_name))
    assert theirs.commits == ours.commits
    assert dict(zarr.open_group(tmp_path, mode="r").members(max_depth=None)), "and zarr sees it"
