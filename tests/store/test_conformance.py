"""Other people's readers see the same numbers, and their writers make the same bytes."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from embedkd.records import ENCODINGS, OutputSpec, RowStatus
from embedkd.store import EmbeddingStore, TeacherView, open_store
from embedkd.store.encoding import decode_chunk, encode_chunk
from embedkd.store.schema import ArraySchema
from tests.decoding import decoded
from tests.store.conftest import Kit
from tests.store.samples import make


def _tensorstore(path: Path) -> NDArray[Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    return np.asarray(tensorstore.open(spec, open=True).result().read().result())


def _zarr(path: Path) -> NDArray[Any]:
    return np.asarray(zarr.open_array(path, mode="r")[...])


READERS = pytest.mark.parametrize("load", [_zarr, _tensorstore])


@pytest.fixture
def store(whole_store: Path) -> EmbeddingStore:
    return open_store(whole_store)


@pytest.fixture(params=["vit:Small", "vit:Other"])
def view(store: EmbeddingStore, request: pytest.FixtureRequest) -> TeacherView:
    return store.teacher(request.param)


@READERS
def test_rows_status_keys_labels_and_places_are_the_same(view: TeacherView, load: Any, whole_store: Path) -> None:
    capacity = view.store.capacity
    keys, labels, places = (load(whole_store / "rows" / name) for name in ("key", "label", "place"))
    for output in view.outputs:
        rows = load(whole_store / "teachers" / view.teacher_id / output)
        status = load(whole_store / "teachers" / view.teacher_id / f"{output}_status")
        assert rows.shape[0] == len(view.store.slots) * capacity
        for slot in view.store.slots:
            ours, first = view.read(slot, output), slot.index * capacity
            here, rest = slice(first, first + slot.rows), slice(first + slot.rows, first + capacity)
            np.testing.assert_array_equal(rows[here], ours.rows)
            assert rows.dtype == ours.rows.dtype
            np.testing.assert_array_equal(status[here], ours.status)
            np.testing.assert_array_equal(keys[here], ours.keys)
            np.testing.assert_array_equal(labels[here], ours.labels)
            np.testing.assert_array_equal(places[here], ours.places)
            assert (places[rest] == 0).all()
            assert np.isnan(rows[rest]).all()
            assert (status[rest] == RowStatus.ABSENT).all()
            assert (keys[rest] == 0).all()
            assert (labels[rest] == -1).all()


ENCODED = (
    *(OutputSpec(f"o{number}", 9, encoding) for number, encoding in enumerate(ENCODINGS)),
    OutputSpec("logits", 9, "top4"),
)
# What a reader that knows nothing of encodings sees of each.
STORED_AS = {"float16": "float16", "float32": "float32", "bfloat16": "uint16", "int8": "int8"}


@pytest.fixture(scope="module")
def encoded_store(fast_disk: None, kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """One output in every encoding, in two passes."""
    spec = kit.spec(outputs=ENCODED)
    names = [output.name for output in ENCODED]
    return make(tmp_path_factory.mktemp("encoded") / "s.zarr", {spec: (tuple(names[:2]), tuple(names[2:]))})


@READERS
@pytest.mark.parametrize("output", ENCODED, ids=lambda output: output.encoding)
def test_rows_of_every_encoding_are_the_same(output: OutputSpec, load: Any, encoded_store: EmbeddingStore) -> None:
    view, root = encoded_store.teacher(), Path(encoded_store.storage.url)
    schemas = view.output_schemas(output.name)
    arrays = {schema.path: load(root / schema.path) for schema in schemas}
    base = schemas[-1].path.removesuffix("_status")
    if output.top is None:
        assert arrays[base].dtype == STORED_AS[output.encoding]
    for slot in encoded_store.slots:
        ours = view.read(slot, output.name)
        theirs = decoded(arrays, base, output.dim, slot.index, encoded_store.capacity)
        np.testing.assert_allclose(theirs[: slot.rows], ours.rows, rtol=0 if output.top is None else 1e-6)
        assert np.isnan(theirs[slot.rows :]).all()


@READERS
def test_class_sets_are_the_same(view: TeacherView, load: Any, whole_store: Path) -> None:
    ours = view.class_set(None, "cls")
    folder = whole_store / "teachers" / view.teacher_id / "classes" / ours.name / "cls"
    for part in ("mean", "count", "spread"):
        theirs = load(folder / part)
        np.testing.assert_array_equal(theirs, getattr(ours, part))
        assert theirs.dtype == getattr(ours, part).dtype


@pytest.mark.parametrize("which", ["whole_store", "encoded_store"])
def test_zarr_walks_the_whole_hierarchy_without_a_warning(which: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(which)
    whole_store = found if isinstance(found, Path) else Path(found.storage.url)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        members = dict(zarr.open_group(whole_store, mode="r").members(max_depth=None))
    on_disk = {p.parent.relative_to(whole_store).as_posix() for p in whole_store.rglob("zarr.json")} - {"."}
    assert set(members) == on_disk


def test_missing_slots_read_as_fill_values(whole_store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(whole_store, copy)
    view = open_store(copy).teacher("vit:Other")
    (copy / "teachers" / view.teacher_id / "cls" / "c" / "0" / "0").unlink()
    assert np.isnan(_zarr(copy / "teachers" / view.teacher_id / "cls")[:8]).all()
    assert np.isnan(_tensorstore(copy / "teachers" / view.teacher_id / "cls")[:8]).all()


SCHEMAS = [
    ArraySchema("a", "float16", (3 * 512, 40), (512, 40)),
    ArraySchema("a", "float32", (3 * 64, 7), (64, 7)),
    ArraySchema("a", "uint8", (3 * 1024,), (1024,)),
    ArraySchema("a", "int32", (3 * 128,), (128,)),
    ArraySchema("a", "uint64", (3 * 128,), (128,)),
    ArraySchema("a", "uint64", (3 * 128, 3), (128, 3)),
    ArraySchema("a", "int64", (100,), (100,)),
    ArraySchema("a", "uint16", (3 * 256, 12), (256, 12), "bfloat16"),
    ArraySchema("a", "int8", (3 * 256, 12), (256, 12), "int8"),
    ArraySchema("a", "float32", (3, 12), (1, 12), "int8"),
    ArraySchema("a", "int32", (3 * 256, 4), (256, 4), "top4"),
    ArraySchema("a", "float16", (3 * 256, 4), (256, 4), "top4"),
]


@pytest.fixture(params=SCHEMAS, ids=lambda schema: f"{schema.dtype}{schema.encoding and '-'}{schema.encoding}")
def schema(request: pytest.FixtureRequest) -> ArraySchema:
    assert isinstance(request.param, ArraySchema)
    return request.param


def _values(schema: ArraySchema, rows: int) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    shape = (rows, *schema.chunk[1:])
    if schema.dtype.startswith("float"):
        return rng.normal(size=shape).astype(schema.dtype)
    return rng.integers(0, 100, size=shape).astype(schema.dtype)


def test_our_bytes_are_those_that_zarr_writes(schema: ArraySchema, tmp_path: Path) -> None:
    """So a byte-for-byte comparison of stores means something whoever wrote them, and our reader takes zarr's."""
    (tmp_path / "zarr.json").write_bytes(schema.metadata())
    values = _values(schema, max(1, schema.chunk[0] - 5))
    zarr.open_array(tmp_path, mode="r+")[: len(values)] = values
    theirs = tmp_path.joinpath(schema.chunk_key().removeprefix("a/")).read_bytes()
    assert encode_chunk(schema, values) == theirs
    np.testing.assert_array_equal(decode_chunk(schema, theirs)[: len(values)], values)


def test_our_metadata_says_what_zarr_would_say(schema: ArraySchema, tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "theirs",
        shape=schema.shape,
        chunks=schema.chunk,
        dtype=schema.dtype,
        fill_value=schema.fill,
        attributes={"embedkd": {"encoding": schema.encoding}} if schema.encoding else {},
        compressors=[
            BloscCodec(
                typesize=np.dtype(schema.dtype).itemsize, cname="lz4", clevel=5, shuffle="bitshuffle", blocksize=0
            ),
            Crc32cCodec(),
        ],
    )
    theirs = json.loads((tmp_path / "theirs" / "zarr.json").read_bytes())
    ours = json.loads(schema.metadata())
    differing = {name for name in theirs | ours if theirs.get(name) != ours.get(name)}
    assert differing <= {"storage_transformers"}
    assert not theirs.get("storage_transformers")
