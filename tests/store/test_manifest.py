"""Manifests: shards cut into slots, and nothing believed that does not add up."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkd.errors import FormatError, ShardError
from embedkd.records import SPLITS, Shard
from embedkd.sources.roots import ShardSource
from embedkd.storage import LocalStorage
from embedkd.store.documents import Fields
from embedkd.store.manifest import Manifest, Slot, fitting_capacity, is_portable, resolve_root, slots_of

counts = st.lists(st.integers(0, 50), min_size=1, max_size=12)
capacities = st.integers(0, 5).map(lambda power: 1 << power)


def _shards(rows: list[int]) -> tuple[Shard, ...]:
    return tuple(Shard(f"{i}.tar", SPLITS[i % 3], 1024 * n, n, f"{i:064x}") for i, n in enumerate(rows))


def _manifest(rows: list[int], capacity: int = 8) -> Manifest:
    return Manifest("an-id", 0, "../data", ("a", "b"), slots_of(_shards(rows), capacity))


def _read(document: dict[str, Any], capacity: int = 8) -> Manifest:
    return Manifest.from_json(Fields(document, "it"), capacity)


@given(counts, capacities)
def test_slots_cover_every_sample_once_and_in_order(rows: list[int], capacity: int) -> None:
    shards = _shards(rows)
    slots = slots_of(shards, capacity)
    assert [slot.index for slot in slots] == list(range(len(slots)))
    assert [slot.shard for slot in slots if slot.start == 0] == list(shards)
    for shard in shards:
        mine = [slot for slot in slots if slot.shard == shard]
        covered = [slot.start + i for slot in mine for i in range(slot.rows)]
        assert covered == list(range(shard.rows))
        assert len(mine) == max(-(-shard.rows // capacity), 1)
        assert all(slot.rows == capacity for slot in mine[:-1])
        assert [slot.index for slot in mine] == list(range(mine[0].index, mine[0].index + len(mine)))


@given(counts, capacities)
def test_round_trip(rows: list[int], capacity: int) -> None:
    manifest = _manifest(rows, capacity)
    assert _read(manifest.to_json(), capacity) == manifest
    assert manifest.shards == _shards(rows)


def test_a_shard_longer_than_a_slot() -> None:
    slots = slots_of(_shards([20, 0, 8]), 8)
    assert [(slot.index, slot.shard.url, slot.start, slot.rows) for slot in slots] == [
        (0, "0.tar", 0, 8),
        (1, "0.tar", 8, 8),
        (2, "0.tar", 16, 4),
        (3, "1.tar", 0, 0),
        (4, "2.tar", 0, 8),
    ]


@pytest.mark.parametrize("capacity", [0, -8, 3, 1000, 16_385, 32_768])
def test_capacities_that_the_format_does_not_have(capacity: int) -> None:
    with pytest.raises(FormatError, match="power of two up to 16384"):
        slots_of(_shards([1]), capacity)


@pytest.mark.parametrize(
    ("rows", "capacity"),
    [
        ([], 64),
        ([0], 64),
        ([1], 64),
        ([64], 64),
        ([65], 128),
        ([5, 1000, 3], 1024),
        ([16_384], 16_384),
        ([10**6], 16_384),
    ],
)
def test_fitting_capacity(rows: list[int], capacity: int) -> None:
    assert fitting_capacity(_shards(rows)) == capacity


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in _manifest([9]).to_json().items() if key != name}


def _changed(index: int, **changes: Any) -> dict[str, Any]:
    document = _manifest([20, 3]).to_json()
    document["slots"][index] |= changes
    return document


@pytest.mark.parametrize(
    "document",
    [
        *(_without(name) for name in ("store_uuid", "generation", "root", "slots")),
        {**_manifest([9]).to_json(), "slots": []},
        {**_manifest([9]).to_json(), "slots": {}},
        {**_manifest([9]).to_json(), "slots": [[]]},
        {**_manifest([9]).to_json(), "slots": [{}]},
        {**_manifest([9]).to_json(), "generation": "0"},
        {**_manifest([9]).to_json(), "generation": -1},
        {**_manifest([9]).to_json(), "classes": "ab"},
        {**_manifest([9]).to_json(), "classes": [1, 2]},
        {**_manifest([9]).to_json(), "root": None},
        {**_manifest([9]).to_json(), "root": ""},
        {**_manifest([9]).to_json(), "root": "/etc"},
        {**_manifest([9]).to_json(), "root": "s3://bucket"},
        {**_manifest([9]).to_json(), "root": "a\0b"},
        _changed(0, rows=19),
        _changed(0, rows=10**18, n=8),
        _changed(0, start=1),
        _changed(0, n=7),
        _changed(1, n=9),
        _changed(1, start=0),
        _changed(1, url="other.tar"),
        _changed(1, blake2b="f" * 64),
        _changed(2, n=-4),
        _changed(2, n=4.0),
        _changed(3, n=True),
        _changed(3, rows=2),
        _changed(3, bytes=-1),
        _changed(3, split="dev"),
        _changed(3, split=None),
        _changed(3, blake2b="f" * 63),
        _changed(3, blake2b="F" * 64),
        _changed(3, url=7),
        _changed(3, url="x" * 5000),
        {**_manifest([20]).to_json(), "slots": _manifest([20]).to_json()["slots"][:2]},
        {**_manifest([20]).to_json(), "slots": _manifest([20]).to_json()["slots"][1:]},
        {**_manifest([20]).to_json(), "slots": _manifest([20]).to_json()["slots"][::-1]},
    ],
    ids=lambda _: "odd",
)
def test_manifests_that_do_not_add_up(document: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        _read(document)
    assert len(str(caught.value)) < 300


def test_a_stranger_cannot_make_the_reader_count_to_infinity() -> None:
    document = _manifest([1], 1).to_json()
    document["slots"][0]["rows"] = 2**62
    with pytest.raises(FormatError, match="does not cut its shards"):
        _read(document, 1)
    with pytest.raises(FormatError, match="slots"):
        slots_of(_shards([2**62]), 1)


def test_members_of_later_versions_are_ignored() -> None:
    document = _manifest([9]).to_json()
    document["licence"] = "CC0"
    document["slots"][0]["etag"] = "x"
    assert _read(document) == _manifest([9])


ODD_URLS = ["../x.tar", "a/../../x.tar", "a/..", "..", "/etc/passwd", "", "a\\b.tar", "http://x/y.tar", "a://b"]


@pytest.mark.parametrize("url", ODD_URLS)
def test_a_url_that_leaves_its_root_is_refused(url: str) -> None:
    with pytest.raises(FormatError, match="relative path"):
        _read(_changed(3, url=url))
    with pytest.raises(ShardError, match="below its data folder"):
        ShardSource(LocalStorage(Path("data")), url)


@pytest.mark.parametrize("url", ["a/..b.tar", "b../c.tar", "...", "a:b/c.tar", "ä b/日本.tar", "a//b.tar", "\u200d"])
def test_a_url_that_only_looks_strange_is_taken(url: str) -> None:
    assert _read(_changed(3, url=url)).shards[-1].url == url


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "a\x7f", "\x85", "a\u2028b", "\ud800", "a\0b"])
def test_no_name_holds_what_a_terminal_obeys(text: str) -> None:
    for document in (_changed(3, url=text), *({**_manifest([9]).to_json(), **odd} for odd in _texts(text))):
        with pytest.raises(FormatError) as caught:
            _read(document)
        assert str(caught.value).isprintable()


def _texts(text: str) -> list[dict[str, Any]]:
    return [{"classes": ["ant", text]}, {"root": text}, {"store_uuid": text}]


def test_two_shards_of_one_name_are_refused() -> None:
    document = _manifest([3, 4]).to_json()
    document["slots"][1]["url"] = document["slots"][0]["url"]
    with pytest.raises(FormatError, match="every shard once"):
        _read(document)


@pytest.mark.parametrize(
    ("root", "portable"),
    [("data:clipart", True), ("../data", True), (".", True), ("a b/c:d", True), ("/data", False), ("", False)],
)
def test_roots_mean_the_same_everywhere(root: str, portable: bool) -> None:
    assert is_portable(root) == portable


def test_resolve_root_follows_the_store(tmp_path: Path) -> None:
    assert resolve_root("../data", str(tmp_path / "s.zarr")) == str(tmp_path.resolve() / "data")
    assert resolve_root("data:clipart", str(tmp_path)) == "data:clipart"
    (tmp_path / "far" / "store").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "store")
    assert resolve_root("../data", str(tmp_path / "link")) == str(tmp_path.resolve() / "far" / "data")


def test_a_slot_says_where_it_is() -> None:
    slot = _manifest([20]).slots[1]
    assert slot == Slot(1, slot.shard, 8, 8)
