"""Sealed JSON: any change is found, anything strange is refused in a line."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkd.errors import FormatError, IntegrityError, StoreError
from embedkd.records import blake2b_hex, canonical_json
from embedkd.store import documents
from embedkd.store.documents import MAX_TEXT, Fields, digest_of, seal, seal_group, unseal, unseal_group
from embedkd.store.schema import is_set_name

KINDS = pytest.mark.parametrize(
    ("close", "opened"), [pytest.param(seal, unseal, id="document"), pytest.param(seal_group, unseal_group, id="group")]
)
CONTENT: dict[str, Any] = {"b": [1, 2.5, None, True], "a": {"é": 'x"\\\n\x7f'}, "n": -1}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
contents = st.dictionaries(st.text().filter(lambda name: name not in {"format", "digest"}), json_values, max_size=5)


@KINDS
@given(contents)
def test_what_was_sealed_is_opened(close: Any, opened: Any, content: dict[str, Any]) -> None:
    assert opened(close(content), "it").content == {"format": 1, **content}


def test_the_bytes_and_the_digest_are_what_the_norm_says() -> None:
    rest = b'{"a":{"\xc3\xa9":"x\\"\\\\\\n\x7f"},"b":[1,2.5,null,true],"format":1,"n":-1}'
    digest = blake2b_hex(rest)
    assert seal(CONTENT) == rest.replace(b'"format"', b'"digest":"' + digest.encode() + b'","format"')
    assert digest_of(CONTENT) == digest
    group = json.loads(seal_group(CONTENT))
    assert group.keys() == {"attributes", "node_type", "zarr_format"}
    assert group["attributes"]["embedkd"] == {**CONTENT, "format": 1, "digest": digest}


@KINDS
def test_every_changed_byte_is_found(close: Any, opened: Any) -> None:
    data = close(CONTENT)
    for at in range(len(data)):
        for flip in (1, 2, 16, 32, 128, 255):
            with pytest.raises(StoreError):
                opened(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :], "it")


@KINDS
def test_every_truncation_and_insertion_is_found(close: Any, opened: Any) -> None:
    data = close(CONTENT)
    for at in range(len(data)):
        for changed in (data[:at], data[:at] + data[at + 1 :], data[:at] + b" " + data[at:]):
            with pytest.raises(StoreError):
                opened(changed, "it")
    for tail in (b"\n", b"\0", data):
        with pytest.raises(StoreError):
            opened(data + tail, "it")


@KINDS
@pytest.mark.parametrize("other", [{"n": -2}, {"extra": 1}])
def test_an_edited_document_is_found(close: Any, opened: Any, other: dict[str, Any]) -> None:
    digest = digest_of(CONTENT).encode()
    changed = close({**CONTENT, **other})
    forged = changed.replace(digest_of({**CONTENT, **other}).encode(), digest)
    with pytest.raises(IntegrityError, match=r"^it was changed after it was written"):
        opened(forged, "it")


@KINDS
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x00" * 100, id="zeros"),
        pytest.param(b"not json", id="no-json"),
        pytest.param(b"\xff\xfe{\x00}\x00", id="utf-16"),
        pytest.param(b"[" * 100_000, id="deep-and-open"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep"),
        pytest.param(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, id="deep-objects"),
        pytest.param(b'{"format":' + b"9" * 10_000 + b"}", id="endless-number"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="nothing"),
        pytest.param(b'{"format":1}', id="no-digest"),
        pytest.param(b'{"digest":1,"format":1}', id="digest-is-a-number"),
        pytest.param(b'{"digest":"","format":true}', id="format-true"),
        pytest.param(b'{"digest":"","format":"1"}', id="format-text"),
        pytest.param(b'{"digest":"","format":1,"x":NaN}', id="nan"),
        pytest.param(b'{"digest":"","format":1,"x":"\\ud800"}', id="half-a-surrogate"),
        pytest.param(b'{"attributes":{"embedkd":[]}}', id="attributes-list"),
        pytest.param(b'{"attributes":{"embedkd":{"format":1,"x":Infinity}}}', id="infinity-in-attributes"),
        pytest.param(b'{"attributes":{"embedkd":{"format":1,"\\ud800":1}}}', id="half-a-surrogate-in-attributes"),
        pytest.param(b'{"attributes":7}', id="attributes-number"),
    ],
)
def test_what_is_no_document_is_refused_in_one_line(close: Any, opened: Any, data: bytes) -> None:
    with pytest.raises(StoreError) as caught:
        opened(data, "it")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@KINDS
def test_another_format_is_named_before_digests_are_believed(close: Any, opened: Any) -> None:
    data = close(CONTENT).replace(b'"format":1', b'"format":2')
    with pytest.raises(FormatError, match="it is of format 2, this version reads 1"):
        opened(data, "it")


@KINDS
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused(close: Any, opened: Any, data: bytes) -> None:
    with pytest.raises(StoreError):
        opened(data, "it")


@given(contents, st.text())
def test_two_names_for_one_member_are_found(content: dict[str, Any], name: str) -> None:
    """json.loads takes the last of them; other readers the first."""
    data = seal(content)
    doubled = b"{" + canonical_json(name) + b":0," + data[1:]
    with pytest.raises(StoreError):
        unseal(doubled, "it")


ACCEPTED: list[tuple[str, Any]] = [
    ("number", 0),
    ("number", 2**63 - 1),
    ("flag", False),
    ("text", ""),
    ("text", "x" * MAX_TEXT),
    ("digest", "0123456789abcdef" * 4),
    ("text", "\u200d\N{NO-BREAK SPACE}日本"),
    ("real", 0),
    ("real", -(2**53) + 1),
    ("real", 1e308),
    ("free", {}),
    ("free", {"a": [1, {"b": None}]}),
]
_ODD: dict[str, list[Any]] = {
    "number": [True, 1.0, "1", None, -1, 2**63, [], {}],
    "flag": [0, 1, "true", None],
    "text": [1, None, [], "x" * (MAX_TEXT + 1), "a\0b", "a\nb", "\x1b", "\x7f", "\x85", "\u2029", "\udfff"],
    "real": [True, "1", None, [], float("nan"), float("inf"), 2**53, 10**400],
    "free": [None, [], "x", {"a": "x" * (64 << 10)}],
    "digest": ["", "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n", 0, None],
    "member": [[], "x", None, 1],
}
REFUSED = [(kind, value) for kind, values in _ODD.items() for value in values]


@pytest.mark.parametrize(("kind", "value"), ACCEPTED)
def test_members_that_fit_are_taken(kind: str, value: object) -> None:
    assert getattr(Fields({"x": value}, "it"), kind)("x") == value


@pytest.mark.parametrize(("kind", "value"), REFUSED, ids=lambda value: repr(value)[:20])
def test_members_that_do_not_fit_are_refused(kind: str, value: object) -> None:
    with pytest.raises(FormatError, match=r"^it") as caught:
        getattr(Fields({"x": value}, "it"), kind)("x")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("kind", ["number", "flag", "text", "digest", "member"])
def test_a_member_that_is_not_there_is_named(kind: str) -> None:
    with pytest.raises(FormatError, match="it lacks 'x'"):
        getattr(Fields({}, "it"), kind)("x")


def test_lists_are_bounded_and_checked() -> None:
    fields = Fields(
        {"texts": ["a", "b"], "numbers": [1, 255], "objects": [{"n": 1}], "odd": [1, "a"], "none": None}, "it"
    )
    assert fields.texts("texts", 2) == ("a", "b")
    assert fields.numbers("numbers", 2, high=255) == (1, 255)
    assert [entry.number("n") for entry in fields.objects("objects", 1)] == [1]
    assert not fields.has("none")
    for read in (
        lambda: fields.texts("texts", 1),
        lambda: fields.texts("odd", 9),
        lambda: fields.numbers("numbers", 2, high=254),
        lambda: fields.numbers("odd", 9),
        lambda: fields.objects("odd", 9),
        lambda: fields.objects("none", 9),
    ):
        with pytest.raises(FormatError, match="it"):
            read()


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_what_is_copied_as_it_is_is_not_deep() -> None:
    fields = Fields({"shallow": nested(64), "deep": nested(65)}, "it")
    assert fields.free("shallow") == nested(64)
    with pytest.raises(FormatError, match="levels"):
        fields.free("deep")


@pytest.mark.parametrize("value", [nested(5000), [[0]] * 10**6, "x" * 10**6, 10**4000, {"\x1b": 1}, "\x1b[2J\u202e"])
def test_a_value_that_does_not_fit_is_described_in_a_few_words(value: object) -> None:
    """Whatever it is: printing it could take all memory, or be deeper than Python goes."""
    for read in (
        Fields({"x": value}, "it").flag,
        lambda name, value=value: Fields({"y": {name: value}}, "it").digest("y"),
    ):
        with pytest.raises(FormatError) as caught:
            read("x")
        assert len(str(caught.value)) < 200
        assert str(caught.value).isprintable()


def test_names_of_a_stranger_are_checked_before_they_are_used() -> None:
    assert Fields({"a": 1, "b-2": 2}, "it").names("sets", 2, is_set_name) == ("a", "b-2")
    for odd in ({"a": 1, "b": 2, "c": 3}, {"../x": 1}, {"": 1}, {"\x1b" * 10**6: 1}):
        with pytest.raises(FormatError, match=r"of sets|up to 2 sets") as caught:
            Fields(odd, "it").names("sets", 2, is_set_name)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("name", "most"), [("MAX_CONTAINERS", b"[[],[]]"), ("MAX_COMMAS", b"[0,0,0]")])
def test_a_document_of_too_many_values_is_not_parsed(monkeypatch: pytest.MonkeyPatch, name: str, most: bytes) -> None:
    data = seal({"x": json.loads(most)})
    assert unseal(data, "it").content["x"] == json.loads(most)
    monkeypatch.setattr(documents, name, 3)
    with pytest.raises(FormatError, match="lists and objects"):
        unseal(data, "it")


def test_long_documents_are_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, wide = seal({"x": "e" * 100}), seal({"x": "é" * 100})
    monkeypatch.setattr(documents, "MAX_WIDE_BYTES", 150)
    assert unseal(plain, "it").text("x") == "e" * 100
    with pytest.raises(FormatError, match="not all ASCII"):
        unseal(wide, "it")


def test_packed_columns_are_measured_before_they_are_decoded() -> None:
    column = documents.pack(np.arange(3, dtype=np.uint32))
    assert Fields({"x": column}, "it").packed("x", "<u4", 3).tolist() == [0, 1, 2]
    for odd in (column[:-4], column + "AAAA", "x" * 10**6, "", column.replace("A", "\n"), None, [column], "é" * 16):
        with pytest.raises(FormatError, match="base64"):
            Fields({"x": odd}, "it").packed("x", "<u4", 3)
    assert Fields({"x": ""}, "it").packed("x", "<u4", 0).tolist() == []
