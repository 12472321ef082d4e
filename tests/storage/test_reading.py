"""Objects as files: what a tar reader sees is what is there, over connections that break too."""

import io
import tarfile
from functools import partial
from typing import TYPE_CHECKING

import pytest

from embedkd.errors import ObjectMissingError, StorageError
from embedkd.storage import Storage, open_storage
from embedkd.storage.reading import open_object
from tests.storage.contract import LONG
from tests.storage.proxy import Breakage, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _tar(members: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(members):
            info = tarfile.TarInfo(f"{number:03d}.bin")
            info.size = 30_000 + number
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    return file.getvalue()


def test_reads_of_any_length_give_the_same_bytes(memory_url: str) -> None:
    storage = open_storage(memory_url)
    storage.put_new("a", LONG)
    storage.put_new("empty", b"")
    for length in (1_000, 77_777, 1 << 20):
        with open_object(storage, "a", 5) as file:
            assert b"".join(iter(partial(file.read, length), b"")) == LONG[5:]
    with open_object(storage, "empty") as file:
        assert file.read() == b""
    with open_object(storage, "missing") as file, pytest.raises(ObjectMissingError, match="has no object missing"):
        file.read(1)


@pytest.mark.parametrize("breakage", [Breakage.CUT_BODY, Breakage.DROP_AFTER, Breakage.ANSWER_503])
def test_a_tar_goes_on_in_the_middle(through_proxy: Storage, proxy: Proxy, breakage: Breakage) -> None:
    tar = _tar(40)
    through_proxy.put_new("a.tar", tar)
    proxy.requests.clear()
    proxy.breaks(breakage, breakage, Breakage.NONE, breakage, method="GET")
    with open_object(through_proxy, "a.tar") as file, tarfile.open(fileobj=file, mode="r|") as read:
        found = [(m.name, _content(read, m)) for m in read]
    assert found == [(f"{n:03d}.bin", bytes([n]) * (30_000 + n)) for n in range(40)]
    assert proxy.methods().count("GET") >= 3


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def test_a_file_that_is_left_early_lets_go(through_proxy: Storage) -> None:
    through_proxy.put_new("a", LONG)
    ended: list[bool] = []
    stream: Callable[[str, int], Iterator[bytes]] = through_proxy.stream

    def watched(key: str, start: int = 0) -> "Iterator[bytes]":
        try:
            yield from stream(key, start)
        finally:
            ended.append(True)

    through_proxy.stream = watched  # type: ignore[method-assign]
    with open_object(through_proxy, "a") as file:
        assert file.read(10) == LONG[:10]
        assert not ended
    assert ended


def test_an_error_in_the_middle_is_the_storages_own(through_proxy: Storage, proxy: Proxy) -> None:
    through_proxy.put_new("a", LONG)
    proxy.breaks(Breakage.CUT_BODY, *[Breakage.ANSWER_503] * 50, method="GET")
    with open_object(through_proxy, "a") as file, pytest.raises(StorageError, match="the server answered 503"):
        file.read()
