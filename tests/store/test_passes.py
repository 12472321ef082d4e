"""Passes: one folder for one set of outputs, and what a killed writer leaves of one."""

from pathlib import Path
from typing import Any

import pytest

from embedkd.errors import FormatError, IntegrityError
from embedkd.records import blake2b_hex
from embedkd.storage import LocalStorage
from embedkd.store import Pass
from embedkd.store.documents import Fields, seal, unseal
from embedkd.store.passes import commit_key, pass_folder, read_passes

PLAN = Pass(("cls", "pooled"), 64, 2, "a processor")


def test_round_trip() -> None:
    assert Pass.from_json(unseal(seal(PLAN.to_json()), "it")) == PLAN


def test_the_digest_is_the_one_in_its_file() -> None:
    assert f'"digest":"{PLAN.digest}"'.encode() in seal(PLAN.to_json())


def test_members_of_later_versions_are_in_the_digest_that_commits_name() -> None:
    later = seal({**PLAN.to_json(), "cooled": True})
    read = Pass.from_json(unseal(later, "it"))
    assert read == PLAN
    assert f'"digest":"{read.digest}"'.encode() in later
    assert read.digest != PLAN.digest
    assert "own_digest" not in read.to_json()


def test_the_id_is_a_function_of_outputs_and_views() -> None:
    assert PLAN.pass_id == "pass-" + blake2b_hex(b'[["cls","pooled"],1]')[:8]
    assert Pass(("cls", "pooled"), 1, 9, "another").pass_id == PLAN.pass_id
    others = [Pass(("cls",), 64, 2, "a processor"), Pass(("pooled", "cls"), 64, 2, "a processor")]
    assert len({PLAN.pass_id, *(other.pass_id for other in others)}) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": []},
        {"outputs": ["cls", "cls"]},
        {"outputs": "cls"},
        {"outputs": [1]},
        {"batch_size": 0},
        {"batch_size": 2.0},
        {"threads": 0},
        {"threads": None},
        {"device": 7},
        {"views": 0},
    ],
)
def test_passes_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"^it"):
        Pass.from_json(Fields({**PLAN.to_json(), **changes}, "it"))


def test_views_are_for_a_later_version() -> None:
    with pytest.raises(FormatError, match="4 views a sample; this version reads stores of one"):
        Pass.from_json(Fields({**PLAN.to_json(), "views": 4}, "it"))


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


KEY = f"{pass_folder('t-00000000', PLAN.pass_id)}/pass.json"


def test_passes_are_found_and_other_names_are_not(storage: LocalStorage) -> None:
    storage.put_new(KEY, seal(PLAN.to_json()))
    for other in ("pass-", "pass-XYZ", "cls", "pass-00000000x"):
        storage.put_new(f"teachers/t-00000000/{other}/pass.json", b"no json")
    assert read_passes(storage, "t-00000000") == {PLAN.pass_id: PLAN}
    assert read_passes(storage, "u-00000000") == {}


def test_a_pass_that_was_killed_while_it_began_is_none(storage: LocalStorage) -> None:
    storage.put_new(KEY.replace("pass.json", "zarr.json"), b"{}")
    assert read_passes(storage, "t-00000000") == {}


def test_a_pass_that_has_commits_and_no_description_is_damaged(storage: LocalStorage) -> None:
    storage.put_new(commit_key("t-00000000", PLAN.pass_id, 0), b"{}")
    with pytest.raises(IntegrityError, match=r"lacks .*pass\.json"):
        read_passes(storage, "t-00000000")


def test_a_pass_in_the_folder_of_another_is_found(storage: LocalStorage) -> None:
    other = Pass(("cls",), 64, 2, "a processor")
    storage.put_new(KEY, seal(other.to_json()))
    with pytest.raises(IntegrityError, match=other.pass_id):
        read_passes(storage, "t-00000000")
