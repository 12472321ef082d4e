"""docs/store-format.md is enough: a writer made from that page alone, and a store of its making that we read.

The writer knows nothing of embedkd. It makes the smallest store with everything in it: one teacher, an output in each
encoding, a shard longer than a slot, a sample without an image, and a class set.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from google_crc32c import value as crc32c
from numcodecs import blosc

from embedkd.records import RowStatus, Shard, ViewSpec
from embedkd.store import average, open_store  # for the test at the end; the writer does not use it

PLAIN = {"attributes": {}, "node_type": "group", "zarr_format": 3}
CAPACITY, DIM, LABELS = 4, 3, [0, 1, 0, -1, 1, 1]
TAR = {"url": "a/train-0.tar", "split": "train", "bytes": 10_240, "blake2b": "ab" * 32, "rows": len(LABELS)}
OUTPUTS = {"cls": "float16", "image": "int8", "pooled": "bfloat16", "logits": "top2"}
FILLS = {"float16": "NaN", "float32": "NaN", "int32": -1, "int8": -128, "uint16": 32704}
BLOSC = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes, size: int = 32, key: bytes = b"") -> str:
    return hashlib.blake2b(data, digest_size=size, key=key).hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    content = {"format": 1, **content}
    return {**content, "digest": digest(canonical(content))}


CLS_ARRAYS = ("rows/key", "rows/label", "rows/place", "/cls", "/cls_status")


def encoded(rows: Any, ok: Any) -> dict[str, list[tuple[str, Any, float, int]]]:
    """Section 5.4: for each output suffix, values, fill value and length of its arrays, the status apart."""
    values = rows.astype(np.float32)
    scale = np.abs(values[ok]).max(axis=0, keepdims=True) / np.float32(127)
    codes = np.full(values.shape, -128, np.int8)
    codes[ok] = np.rint(values[ok] / scale)
    bits = values.view("<u4")
    halves = np.where(ok[:, None], (bits + 0x7FFF + (bits >> 16 & 1)) >> 16, 0x7FC0).astype("<u2")
    index, logs = np.full((len(rows), 2), -1, "<i4"), np.full((len(rows), 2), np.nan, "<f2")
    for at in np.flatnonzero(ok):
        logits = values[at].astype(np.float64)
        index[at] = np.argsort(-logits, kind="stable")[:2]
        logs[at] = (logits - np.log(np.exp(logits).sum()))[index[at]]
    return {
        "cls": [("", rows, np.nan, CAPACITY)],
        "image": [("_scale", scale, 0, 1), ("", codes, -128, CAPACITY)],
        "pooled": [("", halves, 0x7FC0, CAPACITY)],
        "logits": [("_topk_index", index, -1, CAPACITY), ("_topk_value", logs, np.nan, CAPACITY)],
    }


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

    def array(self, folder: str, dtype: str, shape: list[int], chunk: list[int], mark: str = "") -> None:
        size = np.dtype(dtype).itemsize
        endian = {"configuration": {"endian": "little"}} if size > 1 else {}
        metadata = {
            "zarr_format": 3,
            "node_type": "array",
            "attributes": {"embedkd": {"encoding": mark}} if mark else {},
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": FILLS.get(dtype, 0),
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
        self.array("rows/place", "uint64", [total, 3], [CAPACITY, 3])
        self.array(f"{self.base}/cls", "float16", [total, DIM], [CAPACITY, DIM])
        self.array(f"{self.base}/image_scale", "float32", [len(self.slots), DIM], [1, DIM], "int8")
        self.array(f"{self.base}/image", "int8", [total, DIM], [CAPACITY, DIM], "int8")
        self.array(f"{self.base}/pooled", "uint16", [total, DIM], [CAPACITY, DIM], "bfloat16")
        self.array(f"{self.base}/logits_topk_index", "int32", [total, 2], [CAPACITY, 2], "top2")
        self.array(f"{self.base}/logits_topk_value", "float16", [total, 2], [CAPACITY, 2], "top2")
        for output in OUTPUTS:
            self.array(f"{self.base}/{output}_status", "uint8", [total], [CAPACITY])
        self.run = f"{self.base}/pass-{digest(canonical([list(OUTPUTS), 1]))[:8]}"
        self.array(self.run, "uint8", [0], [1])
        self.plan = sealed(
            {
                "outputs": list(OUTPUTS),
                "views": 1,
                "batch_size": 4,
                "threads": 1,
                "device": "an abacus",
                "compiled": False,
            }
        )
        self.put(f"{self.run}/pass.json", canonical(self.plan))

    def slot(self, number: int, rows: Any, status: Any, keys: Any, labels: Any, places: Any) -> list[Any]:
        objects = [
            self.chunk("rows/key", number, keys, 0, CAPACITY),
            self.chunk("rows/label", number, labels, -1, CAPACITY),
            self.chunk("rows/place", number, places, 0, CAPACITY),
        ]
        for output, arrays in encoded(rows, status == 1).items():
            for suffix, values, fill, size in arrays:
                objects.append(self.chunk(f"{self.base}/{output}{suffix}", number, values, fill, size))
            objects.append(self.chunk(f"{self.base}/{output}_status", number, status, 0, CAPACITY))
        lost = int((status == 3).sum())
        error = {"mean": 0.0, "max": 2.0, "histogram": [*[0] * 10, len(rows) - lost]}  # "at most" is allowed
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
            "ok": dict.fromkeys(OUTPUTS, len(rows) - lost),
            "bad": dict.fromkeys(OUTPUTS, {"field_missing": lost} if lost else {}),
            "error": dict.fromkeys(OUTPUTS, error),
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
        of_cls = [[o for o in records if o["key"].split("/c/")[0].endswith(CLS_ARRAYS)] for records in objects]
        used = [[slot, [[o["key"], o["blake2b"]] for o in records]] for slot, records in enumerate(of_cls)]
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
            "method": "mean",
            "trim": None,
        }
        self.group(base, facts | how)


SPEC = {
    "name": "hf:org/Model.v1",
    "model": "org/Model.v1",
    "weights_sha256": "0" * 64,
    "normalised": False,
    "outputs": [{"name": name, "dim": DIM, "encoding": encoding} for name, encoding in OUTPUTS.items()],
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


VIEW = {"seed": 3, "index": 7, "min_crop_area": 0.5, "flip": 0.25}


@pytest.mark.parametrize("of_view", [{}, {"view": VIEW}], ids=["whole images", "a view"])
def test_a_store_of_another_team_is_read(tmp_path: Path, of_view: dict[str, object]) -> None:
    rows = np.random.default_rng(0).normal(size=(len(LABELS), DIM)).astype(np.float16)
    status, labels = np.ones(len(LABELS), np.uint8), np.array(LABELS, np.int32)
    status[4], rows[4] = 3, np.nan
    digests = [hashlib.blake2b(f"sample-{i}".encode(), digest_size=8).digest() for i in range(len(LABELS))]
    keys = np.array([int.from_bytes(found, "little") for found in digests], "<u8")
    made = Writer(tmp_path)
    made.teacher(SPEC | of_view, {"name", "source", "revision", "libraries", "licence", "derived_from"})
    parts = [slice(start, start + CAPACITY) for start in range(0, len(LABELS), CAPACITY)]
    places = np.array([[1_024 * i + 512, 1_024 - 512 * (i % 2), 7 * i] for i in range(len(LABELS))], "<u8")
    objects = [made.slot(i, rows[p], status[p], keys[p], labels[p], places[p]) for i, p in enumerate(parts)]
    made.class_set(rows, status, keys, 1, 7, objects)

    store = open_store(tmp_path)
    assert store.shards == (Shard("a/train-0.tar", "train", 10_240, len(LABELS), "ab" * 32),)
    view = store.teacher("hf:org/Model.v1")
    assert view.holes("cls") == ()
    assert view.spec.view == (ViewSpec(**VIEW) if of_view else None)  # type: ignore[arg-type]
    for number, part in enumerate(parts):
        read = view.read(number, "cls")
        assert read.rows.tobytes() == rows[part].tobytes()
        np.testing.assert_array_equal(read.status, status[part])
        np.testing.assert_array_equal(read.keys, keys[part])
        np.testing.assert_array_equal(read.labels, labels[part])
        np.testing.assert_array_equal(read.places, places[part])
        known = rows[part].astype(np.float32)
        usable = status[part] == 1
        for output, away in (("image", np.nanmax(np.abs(known), axis=0) / 253), ("pooled", np.abs(known) * 2.0**-8)):
            found = view.read(number, output).rows
            assert (np.abs(found - known) <= away)[usable].all()
            assert np.isnan(found[~usable]).all()
        logits = view.read(number, "logits").rows[usable].astype(np.float64)
        exact = known[usable] - np.log(np.exp(known[usable].astype(np.float64)).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(logits, exact, rtol=2e-2)  # one value of three is left over, and follows from two
    assert view.read(1, "cls").status[0] == RowStatus.FIELD_MISSING
    theirs, ours = view.class_set(None, "cls"), average(view, "cls", samples_per_class=1, seed=7)
    for part_name in ("mean", "count", "spread"):
        np.testing.assert_array_equal(getattr(theirs, part_name), getattr(ours, part_name))
    assert theirs.commits == ours.commits
    assert dict(zarr.open_group(tmp_path, mode="r").members(max_depth=None)), "and zarr sees it"
