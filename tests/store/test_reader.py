"""Opening stores and finding teachers in them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from embedkd.errors import ConfigError, FormatError, HoleError, IntegrityError, StorageError, UnknownNameError
from embedkd.records import DecodePolicy
from embedkd.storage import LocalStorage
from embedkd.store import EmbeddingStore, open_store
from embedkd.store.documents import Fields, seal, seal_group
from embedkd.store.root import MAX_PIXELS, policy_facts, policy_of


@pytest.fixture
def copy(whole_store: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole_store, tmp_path / "copy.zarr")
    return tmp_path / "copy.zarr"


@pytest.mark.parametrize("form", [str, Path, lambda path: f"file://{path}", lambda path: LocalStorage(path)])
def test_a_store_is_opened_by_path_url_or_storage(whole_store: Path, form: Any) -> None:
    store = open_store(form(whole_store))
    assert store.capacity == 8
    assert len(store.slots) == 5
    assert store.class_names == ("ant", "bee", "cat")


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no embedding store; make one with embedkd precompute"):
        open_store(tmp_path / "nothing")
    (tmp_path / "zarr.json").write_bytes(b'{"attributes":{"other":1},"node_type":"group","zarr_format":3}')
    with pytest.raises(FormatError, match="no 'embedkd' attributes"):
        open_store(tmp_path)
    with pytest.raises(StorageError, match="expected a local path or a URL like"):
        open_store("ftp://x/y")


def test_another_format_is_named(copy: Path) -> None:
    """Its digests may be computed in another way, so the format is looked at first."""
    document = json.loads((copy / "zarr.json").read_bytes())
    document["attributes"]["embedkd"] |= {"format": 2, "digest": "sha3:..."}
    (copy / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(FormatError, match="is of format 2, this version reads 1"):
        open_store(copy)


def _resealed(copy: Path, **changes: Any) -> None:
    """Root attributes as somebody would forge them who can seal."""
    facts = json.loads((copy / "zarr.json").read_bytes())["attributes"]["embedkd"]
    del facts["digest"]
    (copy / "zarr.json").write_bytes(seal_group({**facts, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"capacity": "8"},
        {"capacity": 0},
        {"capacity": 7},
        {"capacity": 1 << 40},
        {"capacity": 16},
        {"store_uuid": 5},
        {"store_uuid": "another"},
        {"decode": None},
        {"decode": {}},
        {"decode": {"background": [0, 0], "exif": True, "max_pixels": 5}},
        {"decode": {"background": [0, 0, 256], "exif": True, "max_pixels": 5}},
        {"decode": {"background": [0, 0, 0], "exif": 1, "max_pixels": 5}},
        {"decode": {"background": [0, 0, 0], "exif": True, "max_pixels": MAX_PIXELS + 1}},
        {"decode": {"background": [0, 0, 0], "exif": True, "max_pixels": 0}},
    ],
)
def test_attributes_that_make_no_sense(copy: Path, changes: dict[str, Any]) -> None:
    _resealed(copy, **changes)
    with pytest.raises((FormatError, IntegrityError)) as caught:
        open_store(copy)
    assert "\n" not in str(caught.value)


def test_attributes_of_later_versions_are_ignored(copy: Path) -> None:
    _resealed(copy, mirror="elsewhere")
    assert open_store(copy).capacity == 8


def test_the_newest_manifest_counts(copy: Path) -> None:
    first = json.loads((copy / "manifest/0.json").read_bytes())
    later = {**first, "generation": 10, "previous": first.pop("digest")}
    del later["digest"]
    (copy / "manifest/10.json").write_bytes(seal({**later, "classes": ["x", "y", "z"]}))
    (copy / "manifest/9.json").write_bytes(b"older")
    for name in ("x.json", "01.json", "11.json.bak", "-1.json", "²¹.json", ".12.json.aa.tmp"):
        (copy / "manifest" / name).write_bytes(b"not a generation")
    assert open_store(copy).class_names == ("x", "y", "z")
    (copy / "manifest/11.json").write_bytes(seal(later))
    with pytest.raises(IntegrityError, match="is generation 10"):
        open_store(copy)


def test_policy_round_trip() -> None:
    policy = DecodePolicy(background=(1, 2, 3), exif=False, max_pixels=77)
    assert policy_of(Fields({"decode": policy_facts(policy)}, "it")) == policy


@pytest.fixture
def store(whole_store: Path) -> EmbeddingStore:
    return open_store(whole_store)


def test_teachers_are_found_by_id_name_and_prefix(store: EmbeddingStore) -> None:
    other, small = store.teacher_ids
    assert (other[:9], small[:9]) == ("vit-other", "vit-small")
    for name in (small, "vit:Small", "vit:Sm", "vit-small"):
        assert store.teacher(name).teacher_id == small


@pytest.mark.parametrize(("name", "called"), [(None, ""), ("vit", " called 'vit...'"), ("vit:", " called 'vit:...'")])
def test_no_teacher_is_guessed(store: EmbeddingStore, name: str | None, called: str) -> None:
    """All that are meant are listed, with the flag that chooses."""
    with pytest.raises(ConfigError) as caught:
        store.teacher(name)
    url, (other, small) = store.storage.url, store.teacher_ids
    assert str(caught.value) == (f"{url} has 2 teachers{called}; name one with --teacher or teacher=: {other}, {small}")


def test_a_teacher_that_is_not_there(store: EmbeddingStore) -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown teacher of .* 'clip:x'; known: vit-other-"):
        store.teacher("clip:x")


def test_a_name_that_is_wrong_is_wrong_with_one_teacher_too(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "s")
    kit.fill(store, kit.spec(), ("cls",))
    assert store.teacher().spec.name == "vit:Small"
    with pytest.raises(UnknownNameError):
        store.teacher("vit:Large")


def test_a_store_without_teachers_says_what_to_do(tmp_path: Path, kit: Any) -> None:
    with pytest.raises(HoleError, match="no teacher's rows yet; run embedkd precompute"):
        kit.create(tmp_path / "s").teacher()


def test_what_a_killed_writer_leaves_of_a_teacher_is_none(copy: Path) -> None:
    """A folder and nothing in it; a folder with something but without its description is damaged."""
    store = open_store(copy)
    known = store.teacher_ids
    (copy / "teachers" / "vit-new-00000000").mkdir()
    (copy / "teachers" / "vit-new-11111111").mkdir()
    (copy / "teachers" / "vit-new-11111111" / ".zarr.json.abc.tmp").write_bytes(b"half")
    (copy / "teachers" / ".DS_Store").write_bytes(b"x")
    assert store.teacher_ids == known
    assert store.teacher("vit:Small").spec.name == "vit:Small"
    (copy / "teachers" / "vit-new-00000000" / "cls").mkdir()
    with pytest.raises(IntegrityError, match=r"lacks teachers/vit-new-00000000/zarr\.json"):
        store.teacher("vit-new-00000000")
    assert store.teacher(known[0]).teacher_id == known[0], "a damaged teacher does not hide the others"


def test_the_way_to_the_shards_is_found_from_the_store(store: EmbeddingStore) -> None:
    assert store.data_root == str(Path(store.storage.url).resolve().parent / "data")
