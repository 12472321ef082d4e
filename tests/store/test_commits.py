"""Commits, passes and records of objects, as JSON that nobody believes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embedkd.errors import FormatError, IntegrityError
from embedkd.records import blake2b_hex
from embedkd.store.commits import Commit, ObjectRecord, keys_digest, status_counts
from embedkd.store.documents import Fields, seal, unseal
from embedkd.store.encoding import trailer_of
from embedkd.store.measured import MeasuredError

DATA = b"some bytes of a chunk" + trailer_of(b"some bytes of a chunk")
RECORD = ObjectRecord.of("rows/key/c/0", DATA)
COMMIT = Commit(
    slot=3,
    pass_digest="a" * 64,
    fingerprint="b" * 64,
    decode="c" * 64,
    source={"url": "x.tar", "bytes": 1024, "blake2b": "d" * 64},
    rows=5,
    keys="e" * 64,
    labelled=4,
    max_label=2,
    ok={"cls": 3, "pooled": 4},
    bad={"cls": {"decode_error": 1, "non_finite": 1}, "pooled": {"decode_error": 1}},
    error={
        "cls": MeasuredError(1e-8, 2.5e-7, (0, 1, 1, 1, *[0] * 7)),
        "pooled": MeasuredError(0.0, 0.0, (4, *[0] * 10)),
    },
    objects=(RECORD,),
    attempt={"id": "an id", "system": "a machine"},
)


def test_round_trip() -> None:
    assert Commit.from_json(unseal(seal(COMMIT.to_json()), "it")) == COMMIT


def test_members_of_later_versions_are_ignored() -> None:
    later = {**COMMIT.to_json(), "norms": {"cls": {"mean": 1.0}}}
    assert Commit.from_json(Fields(later, "it")) == COMMIT


@pytest.mark.parametrize("name", [name for name in COMMIT.to_json() if name != "format"])
@pytest.mark.parametrize("value", [None, "x", -2, 1.5, [None], [1], True, {"a": None}, 2**70])
def test_a_member_of_another_type_is_refused(name: str, value: object) -> None:
    if name == "attempt" and isinstance(value, dict):
        return
    with pytest.raises(FormatError, match="it"):
        Commit.from_json(Fields({**COMMIT.to_json(), name: value}, "it"))


@pytest.mark.parametrize("name", list(COMMIT.to_json()))
def test_a_missing_member_is_named(name: str) -> None:
    document = {key: value for key, value in COMMIT.to_json().items() if key != name}
    with pytest.raises(FormatError, match=f"lacks '{name}'"):
        Commit.from_json(Fields(document, "it"))


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 4},
        {"labelled": 6},
        {"ok": {"cls": 3}},
        {"ok": {"cls": 2, "pooled": 4}},
        {"bad": {"cls": {}, "pooled": {"decode_error": 1}}},
        {"error": {"cls": COMMIT.error["cls"].to_json()}},
        {"error": dict.fromkeys(("cls", "pooled"), COMMIT.error["cls"].to_json())},
        {"bad": {"cls": {"decode_error": -1, "non_finite": 3}, "pooled": {"decode_error": 1}}},
    ],
)
def test_counts_that_do_not_add_up(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        Commit.from_json(Fields({**COMMIT.to_json(), **changes}, "it"))


def test_records_know_their_objects() -> None:
    RECORD.check(DATA, thorough=True)
    assert COMMIT.record("rows/key/c/0") == RECORD
    with pytest.raises(IntegrityError, match="does not name rows/key/c/1"):
        COMMIT.record("rows/key/c/1")


@pytest.mark.parametrize(
    "data", [b"", DATA[:-1], DATA + b"\0", b"X" + DATA[1:-4] + trailer_of(b"X" + DATA[1:-4]), DATA[:-1] + b"\0"]
)
def test_other_bytes_are_not_the_recorded_ones(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="not the one that was recorded"):
        RECORD.check(data)


def test_only_the_digest_finds_what_has_the_same_length_and_trailer() -> None:
    forged = b"Y" + DATA[1:]
    RECORD.check(forged)
    with pytest.raises(IntegrityError, match="BLAKE2b"):
        RECORD.check(forged, thorough=True)


def test_keys_digest_is_over_little_endian_bytes_in_order() -> None:
    keys = np.array([1, 2**63], np.uint64)
    expected = blake2b_hex(b"\1" + b"\0" * 7 + b"\0" * 7 + b"\x80")
    assert keys_digest(keys) == expected
    assert keys_digest(keys.astype(">u8")) == expected
    assert keys_digest(keys[::-1]) != expected


def test_status_counts_leave_out_what_is_well() -> None:
    assert status_counts(np.array([1, 1, 2, 4, 2, 0], np.uint8)) == {"absent": 1, "decode_error": 2, "non_finite": 1}
    assert status_counts(np.ones(3, np.uint8)) == {}


def test_equal_commits_of_two_attempts_differ_in_the_attempt_alone() -> None:
    other = replace(COMMIT, attempt={"id": "another id"})
    assert {name for name, value in COMMIT.to_json().items() if value != other.to_json()[name]} == {"attempt"}
