"""Where the members of a tar lie."""

import tarfile
from pathlib import Path

import pytest

from embedkd.errors import ShardError
from embedkd.sources.index import Member, index_file, index_shard
from embedkd.sources.reader import open_shard
from tests.tiny import picture, sample, write_tar


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_offsets_lead_to_the_bytes_whatever_the_headers(tmp_path: Path, form: int) -> None:
    keys = ["a", "folder/" * 20 + "b", "c"]
    path = write_tar(tmp_path / "x.tar", [member for key in keys for member in sample(key, 7)], form)
    data = path.read_bytes()
    index = index_shard(path, "x.tar")
    assert [s.key for s in index.samples] == keys
    for found in index.samples:
        png, text, label = found.members
        assert [m.suffix for m in found.members] == ["png", "txt", "cls"]
        assert data[png.offset_bytes :][: png.size_bytes] == picture(found.key)
        assert data[text.offset_bytes :][: text.size_bytes] == found.key.encode()
        assert data[label.offset_bytes :][: label.size_bytes] == b"7"


def test_members_keep_the_order_of_the_tar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.TXT", b"1"), ("a.jpg", b"22"), ("a.B.c", b"")])
    (found,) = index_shard(path, "x.tar").samples
    assert found.members == (Member("txt", 512, 1), Member("jpg", 1536, 2), Member("b.c", 2560, 0))


def test_an_open_file_is_indexed_and_stays_open(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", sample("a", 0))
    with open_shard(path, "x.tar") as file:
        assert index_file(file, "x.tar") == index_shard(path, "x.tar")
        assert not file.closed


def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.jpg", bytes(1 << 20)), ("b.jpg", b"1")])
    with open_shard(path, "x.tar") as file:
        path.write_bytes(path.read_bytes()[: 1 << 19])
        with pytest.raises(ShardError, match="was cut"):
            index_file(file, "x.tar")
