"""Records: canonical bytes, key hashes, and what makes two teachers the same."""

import hashlib
import json
import string
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkd.records import (
    OutputSpec,
    Preprocess,
    RowStatus,
    TeacherSpec,
    ViewSpec,
    blake2b_hex,
    canonical_json,
    key_hash,
)

SPEC = TeacherSpec(
    name="vit:ViT-L-32",
    model="google/vit-large-patch32-224-in21k",
    weights_sha256="0" * 64,
    outputs=(OutputSpec("cls", 1024), OutputSpec("pooled", 1024, "float32")),
    preprocess=Preprocess((224, 224), (224, 224), "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    normalised=False,
    precision="bfloat16",
    source="a folder",
    logit_scale=100.0,
    logit_bias=-10.5,
    revision="main",
    libraries=(("torch", "2.6"), ("transformers", "5.0")),
    licence="Apache-2.0",
)
VIEW = ViewSpec(seed=0, index=3, min_crop_area=0.35, flip=0.5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(json_values)
def test_canonical_json_is_json_and_does_not_depend_on_order(value: Any) -> None:
    data = canonical_json(value)
    assert json.loads(data) == value
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == data


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"b": [1, None, True], "a": {}}, b'{"a":{},"b":[1,null,true]}'),
        ('é"\\/\n\t\x00\x1f\x7f', b'"\xc3\xa9\\"\\\\/\\n\\t\\u0000\\u001f\x7f"'),
        ([1.0, 0.1, 1e16, 1e-5, -0.0, 123456789.125], b"[1.0,0.1,1e+16,1e-05,-0.0,123456789.125]"),
        (2**64, b"18446744073709551616"),
        ({"Z": 1, "a": 2, "_": 3, "é": 4}, b'{"Z":1,"_":3,"a":2,"\xc3\xa9":4}'),
    ],
)
def test_canonical_json_byte_for_byte(value: object, data: bytes) -> None:
    assert canonical_json(value) == data


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_canonical_json_has_no_way_to_say_infinity(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


def test_key_hash_is_blake2b_64() -> None:
    expected = hashlib.blake2b(b"train/a.b", digest_size=8).digest()
    assert key_hash("train/a.b").to_bytes(8, "little") == expected
    assert key_hash("é").to_bytes(8, "little") == hashlib.blake2b("é".encode(), digest_size=8).digest()


def test_blake2b_hex_is_256_bits_of_any_buffer() -> None:
    expected = hashlib.blake2b(b"abc", digest_size=32).hexdigest()
    assert {blake2b_hex(data) for data in (b"abc", bytearray(b"abc"), memoryview(b"abc"))} == {expected}
    assert len(expected) == 64


def test_status_codes_are_those_of_the_format() -> None:
    assert {status.name: int(status) for status in RowStatus} == {
        "ABSENT": 0,
        "OK": 1,
        "DECODE_ERROR": 2,
        "FIELD_MISSING": 3,
        "NON_FINITE": 4,
        "DROPPED": 5,
    }


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, logit_scale=None, logit_bias=None, revision=None, libraries=(), licence=None),
        replace(SPEC, preprocess=replace(SPEC.preprocess, resize_px=256)),
        replace(SPEC, random_weights=True),
        replace(SPEC, view=VIEW),
    ],
)
def test_a_spec_survives_json(spec: TeacherSpec) -> None:
    document = json.loads(json.dumps(spec.to_json()))
    assert TeacherSpec.from_json(document) == spec
    assert TeacherSpec.from_json(document).fingerprint == spec.fingerprint
    assert document == spec.to_json()


def test_a_spec_with_a_member_too_many_or_too_few_is_refused() -> None:
    document = SPEC.to_json()
    with pytest.raises(TypeError, match="future"):
        TeacherSpec.from_json({**document, "future": 1})
    del document["model"]
    with pytest.raises(TypeError, match="model"):
        TeacherSpec.from_json(document)


DESCRIPTIONS: dict[str, Any] = {
    "name": "hf:google/vit",
    "source": "/another/folder",
    "revision": "v2",
    "libraries": (("torch", "9"),),
    "licence": None,
    "derived_from": "vit:ViT-L-32 0123",
}
DECIDING: dict[str, Any] = {
    "model": "another",
    "weights_sha256": "1" * 64,
    "outputs": SPEC.outputs[:1],
    "preprocess": replace(SPEC.preprocess, interpolation="bicubic"),
    "normalised": True,
    "precision": "float32",
    "logit_scale": 99.0,
    "logit_bias": None,
    "random_weights": True,
    "layers": 12,
    "tokenizer": "CLIP, 77 tokens",
    "view": VIEW,
}


def test_every_field_is_either_a_description_or_decides_the_values() -> None:
    assert DESCRIPTIONS.keys() | DECIDING.keys() == {field.name for field in fields(TeacherSpec)}
    assert not DESCRIPTIONS.keys() & DECIDING.keys()


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions_do_not_change_the_fingerprint(name: str) -> None:
    assert replace(SPEC, **{name: DESCRIPTIONS[name]}).fingerprint == SPEC.fingerprint


@pytest.mark.parametrize("name", DECIDING)
def test_what_decides_the_values_changes_the_fingerprint(name: str) -> None:
    assert replace(SPEC, **{name: DECIDING[name]}).fingerprint != SPEC.fingerprint


def test_the_fingerprint_is_a_digest_over_these_bytes() -> None:
    facts = {name: value for name, value in SPEC.to_json().items() if name not in DESCRIPTIONS}
    assert SPEC.fingerprint == blake2b_hex(canonical_json(facts))


def test_specs_that_are_older_than_views_keep_their_bytes() -> None:
    assert "view" not in SPEC.to_json()
    assert SPEC.fingerprint == "4811a802d38ae034234a50ac4c28d7f5596a9019f9ee9618b62d29cdf00cdfba"
    assert replace(SPEC, view=VIEW).plain == SPEC
    assert replace(SPEC, view=VIEW).to_json() == {
        **SPEC.to_json(),
        "view": {"flip": 0.5, "index": 3, "min_crop_area": 0.35, "seed": 0},
    }


def test_every_member_of_a_view_decides() -> None:
    others = [
        replace(VIEW, **{name: value})  # type: ignore[arg-type]
        for name, value in (("seed", 1), ("index", 4), ("min_crop_area", 0.4), ("flip", 0))
    ]
    specs = [SPEC, *(replace(SPEC, view=view) for view in (VIEW, *others))]
    assert len({spec.fingerprint for spec in specs}) == len(specs)
    assert len({spec.teacher_id for spec in specs}) == len(specs)
    assert specs[1].title == "vit:ViT-L-32 (view 3)"


INNER = replace(
    SPEC, outputs=(*(OutputSpec(name, 8) for name in ("image", "text", "cls", "logits", "patch_mean")),), layers=12
)


@pytest.mark.parametrize("name", ["cls@-12", "cls@0", "patch_mean@11", "cls@-1"])
def test_inner_layers_are_as_wide_as_their_output(name: str) -> None:
    assert INNER.output(name) == OutputSpec(name, 8)


@pytest.mark.parametrize(
    "name", ["cls@12", "cls@-13", "cls@", "cls@x", "cls@01", "cls@-0", "cls@+1", "image@1", "text@-1", "smell@1", "@1"]
)
def test_layers_that_are_not_there(name: str) -> None:
    assert INNER.output(name) is None
    assert replace(INNER, layers=0).output("cls@0") is None


def test_the_order_of_a_pass_depends_on_nobodys_wish() -> None:
    names = ["image", "cls", "cls@-4", "cls@-1", "cls@0", "cls@10", "patch_mean", "patch_mean@2"]
    assert INNER.ordered(reversed(names)) == tuple(names)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (("image", "text", "cls", "logits", "patch_mean"), ("image", "logits")),
        (("cls", "pooled", "patch_mean"), ("cls",)),
        (("pooled", "logits"), ("pooled", "logits")),
        (("patch_mean",), ("patch_mean",)),
    ],
)
def test_default_outputs(there: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    assert replace(SPEC, outputs=tuple(OutputSpec(name, 4) for name in there)).default_outputs == chosen


def test_an_offer_names_inner_layers_by_their_range() -> None:
    assert INNER.offer.endswith("patch_mean; cls@k and patch_mean@k for k from -12 to 11")
    assert replace(INNER, layers=0).offer == "image, text, cls, logits, patch_mean"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("vit:ViT-L-32", "vit-vit-l-32"),
        ("vit:ViT-L-32@/home/me/weights", "vit-vit-l-32"),
        ("packaged:efficientnet-lite0", "packaged-efficientnet-lite0"),
        ("hf:org/Model.v2_x", "hf-org-model.v2-x"),
        ("..:../..", "a"),
    ],
)
def test_a_teacher_id_is_a_safe_folder_name(name: str, folder: str) -> None:
    spec = replace(SPEC, name=name)
    readable, _, digits = spec.teacher_id.rpartition("-")
    assert digits == spec.fingerprint[:8]
    assert set(spec.teacher_id) <= set(string.ascii_lowercase + string.digits + "-.")
    if folder != "a":
        assert readable == folder


@settings(deadline=None)
@given(st.text(string.printable, max_size=200))
def test_a_teacher_id_never_leaves_its_folder(name: str) -> None:
    made = replace(SPEC, name=name).teacher_id
    assert "/" not in made
    assert made not in {".", ".."}
    assert len(made) <= 89


def test_outputs_are_found_by_name() -> None:
    assert SPEC.output("pooled") == SPEC.outputs[1]
    assert SPEC.output("text") is None
