"""One scan of a tar: what is in it, and where."""

from pathlib import Path

import pytest

from embedkd.errors import ShardError
from embedkd.records import blake2b_hex
from embedkd.sources.index import index_shard
from embedkd.storage import LocalStorage
from tests.tiny import sample, tar_at, write_tar


def test_keys_and_places_in_the_order_of_the_tar(tmp_path: Path) -> None:
    keys = ["b", "folder/" * 20 + "a", "c"]
    path = write_tar(tmp_path / "x.tar", [member for key in keys for member in sample(key, 7)])
    index = index_shard(tar_at(path))
    assert [s.key for s in index.samples] == keys
    ends = [s.place.offset_bytes + s.place.size_bytes for s in index.samples]
    assert [s.place.offset_bytes for s in index.samples] == [0, *ends[:-1]]
    assert (index.size_bytes, index.blake2b) == (path.stat().st_size, blake2b_hex(path.read_bytes()))


def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.jpg", bytes(1 << 22)), ("b.jpg", b"1")])
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[: 1 << 21])
    monkeypatch.setattr(LocalStorage, "size", lambda storage, key: whole)
    with pytest.raises(ShardError, match="cannot be read: unexpected end of data"):
        index_shard(tar_at(path))
