"""Finding shards, and what an index may say."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from braceexpand import braceexpand

from embedkd.errors import ShardError, UnknownNameError
from embedkd.records import Shard
from embedkd.sources import index_json, patterns
from embedkd.sources import shards as module
from embedkd.sources.index import index_shard
from embedkd.sources.index_json import read_index
from embedkd.sources.roots import ShardSource, open_root, root_folder
from embedkd.sources.shards import index_shards, list_data, split_of
from embedkd.storage import LocalStorage
from tests.tiny import tar_at, write_shard

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training shards and one for validation."""
    data = tmp_path / "data"
    for number, name in enumerate(("train-000000", "train-000001", "val-000000")):
        write_shard(data / f"{name}.tar", 2 + number)
    return data


def write_index(folder: Path, change: Change = lambda document: None, classes: object = ("a", "b", "c")) -> None:
    entries = []
    for path in sorted(folder.glob("*.tar")):
        scan = index_shard(tar_at(path))
        shard = Shard(path.name, split_of(path.name), scan.size_bytes, len(scan.samples), scan.blake2b)
        entries.append(asdict(shard))
    document: dict[str, Any] = {"format": 1, "classes": classes, "shards": entries}
    change(document)
    (folder / "index.json").write_text(json.dumps(document))


def test_a_folder_is_scanned(folder: Path) -> None:
    (folder / "README").write_text("no shard")
    (folder / "folder.tar").mkdir()
    (folder / "._train-000000.tar").write_bytes(b"what macOS leaves")
    listing = list_data(str(folder))
    assert (listing.root, listing.classes, listing.indexed) == (str(folder), None, ())
    assert listing.names == ("train-000000.tar", "train-000001.tar", "val-000000.tar")
    assert listing.sizes_bytes == tuple((folder / name).stat().st_size for name in listing.names)
    seen: list[Shard] = []
    shards = index_shards(listing, seen.append)
    assert seen == list(shards)
    assert [(s.url, s.split, s.rows) for s in shards] == [
        ("train-000000.tar", "train", 2),
        ("train-000001.tar", "train", 3),
        ("val-000000.tar", "val", 4),
    ]
    scan = index_shard(tar_at(folder / "val-000000.tar"))
    assert (shards[2].size_bytes, shards[2].blake2b) == (scan.size_bytes, scan.blake2b)


def test_shards_in_subfolders_keep_their_path(tmp_path: Path) -> None:
    write_shard(tmp_path / "b" / "train" / "0.tar", 1)
    write_shard(tmp_path / "a" / "test" / "0.tar", 1)
    listing = list_data(str(tmp_path))
    assert listing.names == ("a/test/0.tar", "b/train/0.tar")
    assert [s.split for s in index_shards(listing)] == ["test", "train"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("train-*.tar", ["train-000000.tar", "train-000001.tar"]),
        ("*-00000[01]*", ["train-000000.tar", "train-000001.tar", "val-000000.tar"]),
        ("train-{000000..000001}.tar", ["train-000000.tar", "train-000001.tar"]),
        ("{val,train}-000000.tar", ["train-000000.tar", "val-000000.tar"]),
        ("{train,val}-0*.tar", ["train-000000.tar", "train-000001.tar", "val-000000.tar"]),
        ("val-000000.tar", ["val-000000.tar"]),
    ],
)
def test_patterns(folder: Path, pattern: str, expected: list[str]) -> None:
    listing = list_data(str(folder / pattern))
    assert (listing.root, list(listing.names)) == (str(folder), expected)
    write_index(folder)
    indexed = list_data(str(folder / pattern))
    assert [s.url for s in indexed.indexed] == list(indexed.names) == expected
    assert indexed.classes == ("a", "b", "c")


def test_a_pattern_relative_to_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    listing = list_data("val-*.tar")
    assert (listing.root, listing.names) == (".", ("val-000000.tar",))
    assert ShardSource(open_root(listing.root), listing.names[0]).size_bytes() == listing.sizes_bytes[0]


def test_a_pattern_over_folders_has_their_common_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.tar", "b/x.tar"):
        write_shard(tmp_path / name, 1)
    monkeypatch.chdir(tmp_path)
    for pattern in ("*/x.tar", "{a,b}/x.tar", "{./a,a/../b}/x.tar"):
        listing = list_data(pattern)
        assert (listing.root, listing.names) == (str(tmp_path), ("a/x.tar", "b/x.tar"))


@pytest.mark.parametrize(
    "pattern", ["{000..012}", "{8..12}", "{08..12}", "{8..012}", "x{a,b}{0..1}y", "{a}", "{a..c}", "x"]
)
def test_braces_expand_as_in_webdataset(pattern: str) -> None:
    if pattern == "{a..c}":  # letters count in braceexpand; tars are not numbered so
        assert patterns.expand_braces(pattern) == [pattern]
    else:
        assert patterns.expand_braces(pattern) == list(braceexpand(pattern))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("pipe:cat {folder}/train-000000.tar", "expected a folder of tars, a glob or a brace pattern, .* got a pipe"),
        ("{folder}/x.tar|sh", "expected a folder of tars, a glob or a brace pattern, .* got a pipe"),
        ("", "expected a folder of tars, a glob or a brace pattern, .* got nothing"),
        ("{folder}\0", "expected a folder of tars, a glob or a brace pattern"),
        ("{folder}/{{0..9}}{{0..9999999}}.tar", r"a pattern of up to 4,194,304 names, got one of"),
        ("{folder}/{{0..9999999999999}}.tar", r"a pattern of up to 4,194,304 names, got one of"),
        ("file://{folder}/empty", "no shards match .* holds no .tar file"),
        ("{folder}/none.tar", "no shards match"),
        ("{folder}/none", "no shards match"),
        ("{folder}/none-*.tar", "no shards match"),
        ("{folder}/train-{{000000..000007}}.tar", "no shards match .*000002.tar: there is no such file"),
        ("{folder}/train-{{000001..000000}}.tar", "expected a rising range"),
        ("{folder}/empty", "no shards match .* holds no .tar file"),
    ],
)
def test_what_names_no_shards_is_refused_in_one_line(folder: Path, data: str, reason: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ShardError, match=reason) as refused:
        list_data(data.format(folder=folder))
    assert len(str(refused.value).splitlines()) == 1


def test_a_link_that_leads_nowhere_is_an_error_and_no_gap(folder: Path) -> None:
    (folder / "train-000002.tar").symlink_to(folder / "gone")
    for data in (folder, folder / "train-*.tar"):
        with pytest.raises(ShardError, match=r"cannot read shard .*train-000002\.tar: No such file"):
            list_data(str(data))


def test_a_pipe_is_an_error_and_is_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "train-000002.tar")
    for data in (folder, folder / "train-*.tar", folder / "train-000002.tar"):
        with pytest.raises(ShardError, match=r"cannot read shard .*train-000002\.tar: it is no regular file"):
            list_data(str(data))


def test_an_index_is_believed_and_nothing_is_scanned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(folder)
    monkeypatch.delattr(module, "index_shard")
    listing = list_data(str(folder))
    assert listing.classes == ("a", "b", "c")
    assert [s.rows for s in index_shards(listing)] == [2, 3, 4]
    write_index(folder, classes=None)
    assert list_data(str(folder)).classes is None


def grow(folder: Path) -> None:
    with (folder / "train-000001.tar").open("ab") as file:
        file.write(bytes(512))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (grow, r"shard train-000001\.tar has \d+ bytes, the index\.json of .* says \d+; copy it again, or delete it"),
        (lambda f: (f / "val-000000.tar").unlink(), r"disagree about val-000000\.tar"),
        (lambda f: write_shard(f / "a.tar", 1), r"disagree about a\.tar"),
        (lambda f: [p.unlink() for p in f.glob("*.tar")], r"disagree about train-000000\.tar"),
    ],
)
def test_an_index_that_does_not_fit_its_folder(folder: Path, change: Callable[[Path], object], reason: str) -> None:
    write_index(folder)
    change(folder)
    with pytest.raises(ShardError, match=reason):
        list_data(str(folder))


def test_a_pattern_beyond_the_index(folder: Path) -> None:
    write_index(folder)
    write_shard(folder / "train-000002.tar", 1)
    with pytest.raises(ShardError, match=r"disagree about train-000002\.tar"):
        list_data(str(folder / "train-*.tar"))
    assert list_data(str(folder / "val-*.tar")).indexed


def entry(**facts: object) -> Change:
    return lambda document: document["shards"][0].update(facts)


BAD_INDEX: dict[str, Change] = {
    "format": lambda d: d.update(format=2),
    "no format": lambda d: d.pop("format"),
    "no classes": lambda d: d.pop("classes"),
    "classes of another kind": lambda d: d.update(classes="abc"),
    "class of another kind": lambda d: d.update(classes=["a", 1]),
    "shards of another kind": lambda d: d.update(shards=7),
    "entry of another kind": lambda d: d.update(shards=["x.tar"]),
    "unknown field": entry(extra=1),
    "a name that a terminal would obey": lambda d: d.update(classes=["\x1b[31m"]),
    "url that a terminal would obey": entry(url="a\x1b[31m.tar"),
    "endless url": entry(url="a" * 5000),
    "endless field": entry(**{"x" * 100_000: 1}),
    "huge rows": entry(rows=1 << 63),
    "missing field": lambda d: d["shards"][0].pop("rows"),
    "split": entry(split="dev"),
    "negative size": entry(size_bytes=-1),
    "size of another kind": entry(size_bytes="1"),
    "fractional rows": entry(rows=2.5),
    "true rows": entry(rows=True),
    "no rows": entry(rows=0),
    "blake2b": entry(blake2b="xyz"),
    "blake2b of another kind": entry(blake2b=7),
    "url of another kind": entry(url=7),
    "twice": lambda d: d["shards"].append(d["shards"][0]),
}


@pytest.mark.parametrize("name", BAD_INDEX)
def test_a_bad_index_is_refused_in_one_line(folder: Path, name: str) -> None:
    write_index(folder, BAD_INDEX[name])
    with pytest.raises(ShardError, match=r"index\.json is not an index of shards \(.*\); delete it") as refused:
        list_data(str(folder))
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"7", b"\xff", b"{", b"[" * 100_000, b"[" + b"[]," * (1 << 20) + b"[]]", b"[" + b"1," * (1 << 23)],
)
def test_an_index_that_is_no_json_object(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "index.json").write_bytes(data)
    with pytest.raises(ShardError, match="is not an index of shards"):
        read_index(LocalStorage(tmp_path))


def test_a_gigantic_index_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(folder)
    monkeypatch.setattr(index_json, "MAX_INDEX_BYTES", 10)
    with pytest.raises(ShardError, match="more than 10 bytes"):
        list_data(str(folder))


LEAVING = ["../x.tar", "/etc/x.tar", "a/../../x.tar", "a\\x.tar", "x\0.tar", "pipe://x", "s3://b/x.tar", "", "."]


@pytest.mark.parametrize("name", LEAVING)
def test_names_that_leave_their_folder_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ShardError, match="is not to be trusted") as refused:
        ShardSource(LocalStorage(folder), name)
    assert "\0" not in str(refused.value)
    write_index(folder, entry(url=name))
    with pytest.raises(ShardError, match=r"is not to be trusted|a url that names no shard"):
        read_index(LocalStorage(folder))


def test_names_below_their_folder(folder: Path) -> None:
    assert ShardSource(LocalStorage(folder), "a/b..c.tar").place == f"{folder}/a/b..c.tar"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-000000.tar", "train"),
        ("val-000000.tar", "val"),
        ("validation_000.tar", "val"),
        ("valid0.tar", "val"),
        ("TEST-0.tar", "test"),
        ("test.tar", "test"),
        ("deep/val/000000.tar", "val"),
        ("validation/0.tar", "val"),
        ("test/train-0.tar", "train"),
        ("val/imagenet/0.tar", "val"),
        ("valence-0.tar", "train"),
        ("trainval-0.tar", "train"),
        ("tests/0.tar", "train"),
        ("000000.tar", "train"),
        ("imagenet-val-0.tar", "train"),
    ],
)
def test_splits_come_from_names(name: str, split: str) -> None:
    assert split_of(name) == split


def test_the_embedded_data_set_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "embedkd"
    package.mkdir()
    monkeypatch.setattr(resources, "files", lambda name: package)
    assert root_folder("data:clipart") == tmp_path / "data" / "clipart" / "shards"
    with pytest.raises(ShardError, match="no shards match data:clipart"):
        list_data("data:clipart")
    write_shard(tmp_path / "data" / "clipart" / "shards" / "train-0.tar", 1)
    assert list_data("data:clipart").names == ("train-0.tar",)
    write_shard(package / "_data" / "clipart" / "test-0.tar", 1)
    listing = list_data("data:clipart")
    assert (listing.root, listing.names) == ("data:clipart", ("test-0.tar",))
    assert ShardSource(open_root("data:clipart"), "test-0.tar").size_bytes() == listing.sizes_bytes[0]


def test_data_that_lies_elsewhere_has_to_be_named() -> None:
    with pytest.raises(ShardError, match="name their place with --data"):
        list_data("data:elsewhere")


def test_other_symbolic_names_are_unknown() -> None:
    with pytest.raises(UnknownNameError, match=re.escape("did you mean data:clipart?")):
        list_data("data:clip-art")
