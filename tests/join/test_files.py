"""Tars with random access, after they were proven to be the right ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from embedkd.errors import JoinError, ShardError
from embedkd.join.files import ShardFile
from embedkd.records import Shard
from embedkd.sources.shards import index_shards, list_data
from tests.tiny import picture, sample, write_shard, write_tar


def described(path: Path) -> Shard:
    (shard,) = index_shards(list_data(str(path)))
    return shard


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    write_shard(tmp_path / "x.tar", 4)
    return described(tmp_path / "x.tar")


def test_samples_by_number(shard: Shard, tmp_path: Path) -> None:
    file = ShardFile(shard, tmp_path / "x.tar")
    assert file.keys == tuple(f"x/{n:03d}" for n in range(4))
    assert [file.label(n) for n in (3, 0, 2, 1)] == [0, 0, 2, 1]
    assert [file.image(n) == picture(file.keys[n]) for n in (3, 0)] == [True, True]


def flip(data: bytes) -> bytes:
    return data[:600] + bytes([data[600] ^ 1]) + data[601:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (flip, "is not the one that was indexed"),
        (lambda data: data + bytes(512), "is not the one that was indexed"),
        (lambda data: data[:4096], "was cut"),
        (lambda data: b"", "is empty"),
    ],
)
def test_another_tar_is_refused(shard: Shard, tmp_path: Path, change: Callable[[bytes], bytes], reason: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ShardError, match=reason) as refused:
        ShardFile(shard, path)
    assert len(str(refused.value).splitlines()) == 1


def test_the_number_of_rows_counts(shard: Shard, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="expected 5 samples in 20480 bytes, got 4 in 20480"):
        ShardFile(replace(shard, rows=5), tmp_path / "x.tar")


def test_a_missing_tar_is_named(shard: Shard, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"cannot open shard x\.tar at .*none\.tar: No such file"):
        ShardFile(shard, tmp_path / "none.tar")


def test_two_images_in_one_sample_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [*sample("a", 0), ("b.z.jpg", b"1"), ("b.w.jpg", b"1")])
    with pytest.raises(ShardError, match=r"sample 'b' of x\.tar holds 2 images"):
        ShardFile(described(path), path)


def test_what_a_sample_lacks(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.txt", b"no more")])
    file = ShardFile(described(path), path)
    assert file.label(0) == -1
    with pytest.raises(JoinError, match="has no image"):
        file.image(0)


def test_a_file_that_is_replaced_stays_open_and_one_that_is_cut_is_found(shard: Shard, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    file = ShardFile(shard, path)
    path.rename(tmp_path / "old.tar")
    write_shard(path, 2)
    assert file.image(3) == picture("x/003")
    (tmp_path / "old.tar").write_bytes(b"")
    with pytest.raises(ShardError, match="was cut while it was in use"):
        file.image(3)
