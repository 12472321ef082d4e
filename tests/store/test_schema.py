"""Names and metadata of format 1: what may be called how, and how large it may be."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from embedkd.errors import FormatError
from embedkd.records import MAX_SAMPLE_BYTES, MAX_VIEWS, OutputSpec
from embedkd.store import documents, manifest, passes, root, schema
from embedkd.store.schema import (
    MAX_CHUNK_BYTES,
    ArraySchema,
    check_capacity,
    check_output,
    class_schemas,
    is_set_name,
    is_teacher_id,
    output_schemas,
    row_schemas,
    shelf_metadata,
)


@pytest.mark.parametrize(
    "name", ["cls", "image", "text", "pooled", "logits", "logits_t4", "cls@-4", "cls@11", "a" * 32]
)
def test_outputs_of_these_names_are_held(name: str) -> None:
    check_output(OutputSpec(name, 1))


@pytest.mark.parametrize(
    "name",
    [
        *("", "Cls", "1cls", "_cls", "cls ", "cls/x", "../cls", "cls\0", "cls\n", "cls@", "cls@x", "a" * 33, "é"),
        *("classes", "heads", "cls_status", "cls_scale", "logits_topk_index", "logits_topk_value", "pass-00000000"),
    ],
)
def test_outputs_of_these_names_are_not(name: str) -> None:
    with pytest.raises(FormatError, match="output name"):
        check_output(OutputSpec(name, 1))


@pytest.mark.parametrize("dim", [0, -1, 65_537, "6", 6.0, True])
def test_widths_that_the_format_does_not_have(dim: int) -> None:
    with pytest.raises(FormatError, match="width of 1 to 65536"):
        check_output(OutputSpec("cls", dim))


@pytest.mark.parametrize("encoding", ["int4", "float64", "object", "", "<f2", "top", "top0", "top01", "top-1", "top5 "])
def test_encodings_that_the_format_does_not_have(encoding: str) -> None:
    with pytest.raises(FormatError, match="float16, float32"):
        check_output(OutputSpec("logits", 10, encoding))


@pytest.mark.parametrize(
    ("name", "encoding"), [("cls", "top5"), ("logits@2", "top5"), ("logits", "top10"), ("logits", "top99")]
)
def test_only_logits_are_cut_and_only_to_fewer_than_all(name: str, encoding: str) -> None:
    with pytest.raises(FormatError, match="expected top<K> of 'logits' alone, and K below its width"):
        check_output(OutputSpec(name, 10, encoding))
    check_output(OutputSpec("logits", 10, "top9"))


@pytest.mark.parametrize(
    "name", ["vit-l-32-0123abcd", "packaged-efficientnet-lite0-00000000", "a-00000000", "a.b-ffffffff"]
)
def test_teacher_ids(name: str) -> None:
    assert is_teacher_id(name)


@pytest.mark.parametrize(
    "name", ["", "vit", "vit-0123abc", "vit-0123ABCD", "-0123abcd", "../x-0123abcd", "x-0123abcd\n", "Ü-0123abcd", "."]
)
def test_names_that_are_no_teacher_id(name: str) -> None:
    assert not is_teacher_id(name)


@pytest.mark.parametrize(("name", "fits"), [("n100-seed0", True), ("a.b_c", True), ("", False), ("..", False)])
def test_class_set_names(name: str, fits: bool) -> None:
    assert is_set_name(name) == fits
    assert not is_set_name(f"{name}/x")
    assert not is_set_name("x" * 65)


def test_capacities_are_powers_of_two() -> None:
    allowed = {1 << power for power in range(15)}
    for capacity in range(-1, 16_400):
        if capacity in allowed:
            check_capacity(capacity)
        else:
            with pytest.raises(FormatError):
                check_capacity(capacity)


def test_one_slot_is_one_object_of_every_array() -> None:
    rows, status = output_schemas("t-00000000", OutputSpec("cls", 768), slots=5, capacity=1024)
    key, label, place = row_schemas(slots=5, capacity=1024)
    assert [s.chunk_key(3) for s in (key, label, place, rows, status)] == [
        "rows/key/c/3",
        "rows/label/c/3",
        "rows/place/c/3/0",
        "teachers/t-00000000/cls/c/3/0",
        "teachers/t-00000000/cls_status/c/3",
    ]
    assert {s.shape[0] for s in (key, label, place, rows, status)} == {5 * 1024}
    assert (place.dtype, place.shape[1:], place.chunk, place.fill) == ("uint64", (3,), (1024, 3), 0)
    assert [(s.dtype, s.fill) for s in (key, label, status)] == [("uint64", 0), ("int32", -1), ("uint8", 0)]
    assert np.isnan(rows.fill)
    assert rows.chunk_bytes == 1024 * 768 * 2


def test_class_sets_are_one_object_of_every_array() -> None:
    schemas = class_schemas("t-00000000", "n2-seed0", "cls", classes=10, dim=4)
    assert {part: s.chunk_key() for part, s in schemas.items()} == {
        "mean": "teachers/t-00000000/classes/n2-seed0/cls/mean/c/0/0",
        "count": "teachers/t-00000000/classes/n2-seed0/cls/count/c/0",
        "spread": "teachers/t-00000000/classes/n2-seed0/cls/spread/c/0",
    }
    assert all(s.shape == s.chunk for s in schemas.values())


def test_chunks_are_bounded_before_anything_is_allocated() -> None:
    ArraySchema("a", "float32", (16_384, 16_384), (16_384, 16_384))
    assert MAX_CHUNK_BYTES == 16_384 * 16_384 * 4
    with pytest.raises(FormatError, match="chunks of up to"):
        ArraySchema("a", "float32", (16_384, 16_385), (16_384, 16_385))


def test_metadata_is_canonical_and_complete() -> None:
    schema = ArraySchema("a", "float16", (256, 3), (128, 3))
    assert schema.metadata() == (
        b'{"attributes":{},"chunk_grid":{"configuration":{"chunk_shape":[128,3]},"name":"regular"},'
        b'"chunk_key_encoding":{"configuration":{"separator":"/"},"name":"default"},'
        b'"codecs":[{"configuration":{"endian":"little"},"name":"bytes"},'
        b'{"configuration":{"blocksize":0,"clevel":5,"cname":"lz4","shuffle":"bitshuffle","typesize":2},"name":"blosc"},'
        b'{"name":"crc32c"}],"data_type":"float16","fill_value":"NaN","node_type":"array","shape":[256,3],"zarr_format":3}'
    )
    status = json.loads(ArraySchema("a", "uint8", (256,), (128,)).metadata())
    assert status["codecs"][0] == {"name": "bytes"}, "one byte has no order"
    assert json.loads(shelf_metadata())["shape"] == [0]


def test_limits_and_names_of_the_page_are_those_of_the_code() -> None:

    page = Path(__file__).parents[2].joinpath("docs/store-format.md").read_text()
    limits = dict(
        re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", page[page.index("## 10") : page.index("## 11")], re.MULTILINE)
    )
    assert limits["capacity"] == f"{schema.MAX_CAPACITY:,}"
    assert limits["slots"] == f"{schema.MAX_SLOTS:,}"
    assert limits["width of an output"] == f"{schema.MAX_DIM:,}"
    assert limits["outputs of a pass"] == str(passes.MAX_OUTPUTS)
    assert limits["views of one seed"] == f"{MAX_VIEWS:,}"
    assert limits["bytes of a sample in its tar"] == f"2^{MAX_SAMPLE_BYTES.bit_length() - 1}"
    assert limits["classes"] == f"2^{schema.MAX_CLASSES.bit_length() - 1}"
    assert (
        limits["bytes of a chunk, or of all maps of a head, uncompressed"]
        == f"2^{schema.MAX_CHUNK_BYTES.bit_length() - 1}"
    )
    megabytes = [f"{size >> 20} MiB" for size in (documents.MAX_MANIFEST_BYTES, documents.MAX_DOCUMENT_BYTES)]
    assert limits["manifest, sealed index / other documents"] == " / ".join(megabytes)
    assert f"number 1 to 2^{root.MAX_PIXELS.bit_length() - 1}" in page
    assert f"`{manifest.SYMBOLIC}<name>`" in page
    for pattern in (schema._TEACHER_ID, schema._OUTPUT_NAME, schema._SET_NAME, passes._PASS_ID):
        assert f"`{pattern.pattern}`" in page
