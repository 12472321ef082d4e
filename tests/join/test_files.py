"""Tars with random access: each sample is proven by its bytes and its key before it is handed out."""

import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedkd.errors import JoinError, ShardError
from embedkd.join.files import SampleTable, ShardFile, scan_table
from embedkd.records import Shard
from embedkd.sources.shards import index_shards, list_data
from embedkd.storage.files import open_regular
from tests.tiny import picture, sample, tar_at, write_shard, write_tar

Damage = Callable[[bytes], bytes]


def described(path: Path) -> Shard:
    (shard,) = index_shards(list_data(str(path)))
    return shard


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Four samples of three members."""
    write_shard(tmp_path / "x.tar", 4)
    return tmp_path / "x.tar"


def keys_of(path: Path, table: SampleTable, shard: Shard) -> list[str]:
    file = ShardFile(shard, tar_at(path))
    return [file.sample(n, table, n).key for n in range(len(table.keys))]


def test_samples_by_number(path: Path) -> None:
    shard = described(path)
    table = scan_table(shard, tar_at(path))
    file = ShardFile(shard, tar_at(path))
    for number in (3, 0, 2, 1, 3):
        found = file.sample(number, table, number)
        assert (found.key, found.ordinal) == (f"x/{number:03d}", number)
        assert found.fields == {"png": picture(found.key), "txt": found.key.encode(), "cls": b"%d" % (number % 3)}


def test_a_sample_is_one_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = described(path)
    table = scan_table(shard, tar_at(path))
    opened: list[Path] = []

    def counting(path: Path) -> object:
        opened.append(path)
        return open_regular(path)

    monkeypatch.setattr("embedkd.storage.reading.open_regular", counting)
    file = ShardFile(shard, tar_at(path))
    reads: list[tuple[int, int]] = []
    pread = os.pread

    def watched(handle: int, length: int, start: int) -> bytes:
        reads.append((start, length))
        return pread(handle, length, start)

    monkeypatch.setattr(os, "pread", watched)
    assert [file.sample(n, table, n).key for n in (2, 1, 2)] == ["x/002", "x/001", "x/002"]
    assert reads == [tuple(table.places[n, :2].tolist()) for n in (2, 1, 2)]
    assert len(opened) == 1


def test_any_flipped_bit_of_a_sample_is_found(path: Path) -> None:
    """Every byte of one sample, headers and padding too; what lies outside of it is nobody's business."""
    shard, data = described(path), path.read_bytes()
    table = scan_table(shard, tar_at(path))
    offset, size, _ = table.places[1].tolist()
    file = ShardFile(shard, tar_at(path))
    with path.open("r+b", buffering=0) as disk:
        for at in range(offset, offset + size):
            disk.seek(at)
            disk.write(bytes([data[at] ^ 1 << at % 8]))
            with pytest.raises(ShardError, match=r"^sample 1 of x\.tar \(\d+ bytes from \d+ on\) is not the one that"):
                file.sample(1, table, 1)
            disk.seek(at)
            disk.write(data[at : at + 1])
        for at in (0, offset - 1, offset + size, len(data) - 1):
            disk.seek(at)
            disk.write(bytes([data[at] ^ 1]))
        assert file.sample(1, table, 1).key == "x/001"


def swapped(data: bytes, one: list[int], other: list[int]) -> bytes:
    assert one[1] == other[1]
    first, second = data[one[0] :][: one[1]], data[other[0] :][: one[1]]
    return data[: one[0]] + second + data[one[0] + one[1] : other[0]] + first + data[other[0] + one[1] :]


def test_two_samples_that_changed_places_are_found(tmp_path: Path) -> None:
    members = [(f"{key}.{suffix}", key.encode() * 9) for key in ("a", "b", "c") for suffix in ("jpg", "cls")]
    path = write_tar(tmp_path / "x.tar", members)
    shard = described(path)
    table = scan_table(shard, tar_at(path))
    path.write_bytes(swapped(path.read_bytes(), table.places[0].tolist(), table.places[2].tolist()))
    file = ShardFile(shard, tar_at(path))
    assert file.sample(1, table, 1).key == "b"
    for number in (0, 2):
        with pytest.raises(ShardError, match=rf"^sample {number} of x\.tar .* restore the shard, or precompute"):
            file.sample(number, table, number)
    forged = table.places.copy()  # checksums of what is there now: then the keys tell
    forged[[0, 2], 2] = forged[[2, 0], 2]
    with pytest.raises(JoinError, match=r"^sample 'c' of x\.tar \(number 0\) has another key in the store"):
        file.sample(0, SampleTable(table.keys, forged), 0)


@pytest.mark.parametrize("size", [0, (256 << 20) + 512, 1 << 40])
def test_a_place_that_no_sample_can_have_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    shard = described(path)
    table = scan_table(shard, tar_at(path))
    table.places[1, 1] = size
    file = ShardFile(shard, tar_at(path))
    monkeypatch.setattr(os, "pread", None)
    with pytest.raises(ShardError, match=rf"^sample 1 of x\.tar cannot have {size} bytes; precompute the store again$"):
        file.sample(1, table, 1)


def test_a_tar_of_another_length_is_not_opened(path: Path) -> None:
    shard, data = described(path), path.read_bytes()
    for other in (data + bytes(512), data[:4096], b""):
        path.write_bytes(other)
        with pytest.raises(ShardError, match=rf"expected {len(data)} bytes, got {len(other)} at ") as refused:
            ShardFile(shard, tar_at(path))
        assert len(str(refused.value).splitlines()) == 1


def test_a_replaced_tar_of_the_same_length_is_found(path: Path) -> None:
    shard = described(path)
    table = scan_table(shard, tar_at(path))
    keys = keys_of(path, table, shard)
    write_shard(path.with_name("y.tar"), 4)
    path.with_name("y.tar").replace(path)
    assert path.stat().st_size == shard.size_bytes
    with pytest.raises(ShardError, match=r"^sample 0 of x\.tar"):
        keys_of(path, table, shard)
    write_shard(path, 4)
    assert keys_of(path, table, shard) == keys


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:600] + bytes([data[600] ^ 1]) + data[601:], "is not the one that was indexed"),
        (lambda data: data + bytes(512), "is not the one that was indexed"),
        (lambda data: data[:4096], "was cut"),
        (lambda data: b"", "is empty"),
    ],
)
def test_a_scan_refuses_another_tar(path: Path, damage: Damage, reason: str) -> None:
    shard = described(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError, match=reason) as refused:
        scan_table(shard, tar_at(path))
    assert len(str(refused.value).splitlines()) == 1


def test_the_number_of_rows_counts(path: Path) -> None:
    with pytest.raises(ShardError, match="expected 5 samples in 20480 bytes, got 4 in 20480"):
        scan_table(replace(described(path), rows=5), tar_at(path))


def test_a_missing_tar_is_named(path: Path) -> None:
    with pytest.raises(ShardError, match=r"cannot open shard none\.tar: there is none at .* name .* with --data"):
        ShardFile(described(path), tar_at(path.with_name("none.tar")))


def test_extended_headers_are_read_too(tmp_path: Path) -> None:
    keys = ["é" * 40, "d/" * 80 + "x", "plain"]
    path = write_tar(tmp_path / "x.tar", [m for key in keys for m in sample(key, 1)], tarfile.PAX_FORMAT)
    shard = described(path)
    assert keys_of(path, scan_table(shard, tar_at(path)), shard) == keys


def test_a_file_that_is_replaced_stays_open_and_one_that_is_cut_is_found(path: Path) -> None:
    shard = described(path)
    table, file = scan_table(shard, tar_at(path)), ShardFile(shard, tar_at(path))
    old = path.rename(path.with_name("old.tar"))
    write_shard(path, 2)
    assert file.sample(3, table, 3).fields["png"] == picture("x/003")
    old.write_bytes(b"")
    with pytest.raises(ShardError, match="was cut while it was in use"):
        file.sample(3, table, 3)


def test_a_link_is_followed_and_a_pipe_is_not_read(path: Path, tmp_path: Path) -> None:
    shard = described(path)
    link = tmp_path / "links" / "x.tar"
    link.parent.mkdir()
    link.symlink_to(path)
    assert len(keys_of(link, scan_table(shard, tar_at(link)), shard)) == 4
    assert list_data(str(link.parent)).sizes_bytes == (shard.size_bytes,)
    assert np.array_equal(scan_table(shard, tar_at(link)).places, scan_table(shard, tar_at(path)).places)
