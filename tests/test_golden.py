"""Stores of the released format open for ever, in our reader and in zarr's, and the same bytes are written today."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
from numpy.typing import NDArray

from embedkd.records import RowStatus
from embedkd.store import (
    EmbeddingStore,
    TeacherView,
    check_objects,
    check_output,
    open_store,
    seal_store,
    set_names,
)
from embedkd.store.heads import head_names, read_head
from tests.decoding import decoded
from tests.golden import make
from tests.golden.check_any_zarr import GOLDEN, differences, read_arrays

Arrays = dict[str, NDArray[Any]]
OLDEST_NEWER_PYTHON = 12  # what releases of zarr behind 3.1 need


@pytest.fixture(params=sorted(GOLDEN.glob("*.zarr")), ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


@pytest.fixture
def arrays(golden: Path) -> Arrays:
    """What zarr read when the store was made."""
    return _load(golden.with_suffix(".npz"))


@pytest.fixture
def said(golden: Path) -> Arrays:
    """What the teachers said when the store was made: <teacher>/<output>, [n, D] over all slots."""
    return _load(golden.with_name(f"{golden.stem}-said.npz"))


def _load(path: Path) -> Arrays:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def _views(store: EmbeddingStore) -> list[tuple[TeacherView, str]]:
    return [(view, output) for view in map(store.teacher, store.teacher_ids) for output in view.outputs]


def test_there_are_golden_stores() -> None:
    assert {path.stem for path in GOLDEN.glob("*.zarr")} >= {"plain", "full"}


def test_this_zarr_reads_the_numbers(golden: Path, arrays: Arrays) -> None:
    assert differences(read_arrays(golden), arrays) == []


def test_tensorstore_reads_the_numbers(golden: Path, arrays: Arrays) -> None:
    found = {}
    for name in arrays:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{golden / name}/"}}
        found[name] = np.asarray(tensorstore.open(spec, open=True).result().read().result())
    assert differences(found, arrays) == []


def test_the_check_finds_what_differs(golden: Path, arrays: Arrays) -> None:
    found = read_arrays(golden)
    changed = found["rows/key"].copy()
    changed[0] ^= 1
    assert differences(found | {"rows/key": changed}, arrays) == ["rows/key: 1 values differ"]
    assert len(differences({name: found[name] for name in found if name != "rows/key"}, arrays)) == 1
    assert len(differences(found | {"rows/label": found["rows/label"].astype(np.int64)}, arrays)) == 1


def test_a_newer_zarr_reads_the_numbers() -> None:
    python = _newer_python()
    if python is None:
        pytest.skip(f"no python3.{OLDEST_NEWER_PYTHON} or newer with numpy and zarr is on the PATH")
    command = [python, "-P", str(GOLDEN / "check_any_zarr.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("all as they were") == len(list(GOLDEN.glob("*.zarr")))


def _newer_python() -> str | None:
    """The newest other Python that has what `check_any_zarr` needs."""
    for minor in range(OLDEST_NEWER_PYTHON + 8, OLDEST_NEWER_PYTHON - 1, -1):
        python = shutil.which(f"python3.{minor}") if minor != sys.version_info.minor else None
        if python is not None:
            found = subprocess.run([python, "-P", "-c", "import numpy, zarr"], capture_output=True, check=False)
            if found.returncode == 0:
                return python
    return None


def test_every_sample_reads_as_it_did(golden: Path, arrays: Arrays) -> None:
    store = open_store(golden)
    for view, output in _views(store):
        base, spec = f"teachers/{view.teacher_id}/{output}", view.spec.output(output)
        assert spec is not None
        for slot in store.slots:
            read, first = view.read(slot, output), slot.index * store.capacity
            here, padding = slice(first, first + slot.rows), slice(first + slot.rows, first + store.capacity)
            np.testing.assert_array_equal(read.keys, arrays["rows/key"][here])
            np.testing.assert_array_equal(read.labels, arrays["rows/label"][here])
            np.testing.assert_array_equal(read.places, arrays["rows/place"][here])
            np.testing.assert_array_equal(read.status, arrays[f"{base}_status"][here])
            expected = decoded(arrays, base, spec.dim, slot.index, store.capacity)
            np.testing.assert_allclose(read.rows, expected[: slot.rows], rtol=0 if spec.top is None else 1e-6)
            assert np.isnan(expected[slot.rows :]).all()
            np.testing.assert_array_equal(np.isfinite(read.rows).all(axis=1), read.status == RowStatus.OK)
            assert (arrays[f"{base}_status"][padding] == RowStatus.ABSENT).all()


def test_rows_are_what_the_teacher_said(golden: Path, said: Arrays) -> None:
    """As near as the encoding's closed-form bound allows."""
    store = open_store(golden)
    for view, output in _views(store):
        spec = view.spec.output(output)
        assert spec is not None
        reads = [view.read(slot, output) for slot in store.slots]
        ok = np.concatenate([read.status for read in reads]) == RowStatus.OK
        assert ok.any()
        rows = np.concatenate([read.rows.astype(np.float64) for read in reads])[ok]
        told = said[f"{view.teacher_id}/{output}"].astype(np.float64)[ok]
        if spec.top is None:
            assert (np.abs(rows - told) <= _bound(spec.encoding, told)).all()
            continue
        order = np.argsort(-told, axis=1, kind="stable")[:, : spec.top]
        log_p = told - np.log(np.exp(told).sum(axis=1, keepdims=True))
        largest = np.take_along_axis(log_p, order, axis=1)
        np.testing.assert_allclose(np.take_along_axis(rows, order, axis=1), largest, rtol=2.0**-11, atol=2.0**-24)
        others = np.ones(rows.shape, np.bool_)
        np.put_along_axis(others, order, False, axis=1)
        assert (rows[others].reshape(len(rows), -1) <= largest[:, -1:] + 2.0**-10).all()


def _bound(encoding: str, told: NDArray[np.float64]) -> NDArray[np.float64] | float:
    """How far a stored value may lie from the one that was said."""
    if encoding == "int8":
        return float(np.abs(told).max()) / 127 / 2 * 1.001  # a slot's scale is at most that of all rows
    return np.abs(told) * {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}[encoding]


def test_class_sets_and_heads_are_the_same(golden: Path, arrays: Arrays) -> None:
    store, found = open_store(golden), set()
    for view, output in _views(store):
        for name in set_names(view, output):
            made, base = view.class_set(name, output), f"teachers/{view.teacher_id}/classes/{name}/{output}"
            for part in ("mean", "count", "spread"):
                np.testing.assert_array_equal(getattr(made, part), arrays[f"{base}/{part}"])
                found.add(f"{base}/{part}")
    for view in map(store.teacher, store.teacher_ids):
        for name in head_names(view):
            head, base = read_head(view, name), f"teachers/{view.teacher_id}/heads/{name}"
            np.testing.assert_array_equal(head.weight, arrays[f"{base}/weight"])
            np.testing.assert_array_equal(head.bias, arrays[f"{base}/bias"])
            found |= {f"{base}/weight", f"{base}/bias"}
    assert found == {name for name in arrays if "/classes/" in name or "/heads/" in name}


def test_verify_finds_it_whole(golden: Path) -> None:
    store = open_store(golden)
    assert check_objects(store) == ()
    for view, output in _views(store):
        check = check_output(view, output)
        assert (check.committed, check.problems) == (len(store.slots), ())


def test_sealing_again_changes_nothing(golden: Path, tmp_path: Path) -> None:
    copy = tmp_path / golden.name
    shutil.copytree(golden, copy)
    before, was_sealed = _files(copy), open_store(copy).catalogue is not None
    report = seal_store(open_store(copy).storage)
    assert report.new is not was_sealed
    after = _files(copy)
    assert {name: after[name] for name in before} == before
    assert not was_sealed or len(after) == len(before)


@pytest.mark.parametrize("store", make.STORES, ids=lambda store: store.name)
def test_the_same_store_is_written_today(store: make.Golden, tmp_path: Path) -> None:
    """Every byte: metadata, chunks, commits, indexes. Rows come from digests, so no library's random numbers matter."""
    made = _files(make.make(store, tmp_path))
    there = _files(GOLDEN / f"{store.name}.zarr")
    assert sorted(made) == sorted(there)
    assert [name for name in there if made[name] != there[name]] == []


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
