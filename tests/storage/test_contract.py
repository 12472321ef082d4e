"""Each storage keeps the contract."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from embedkd.errors import ListingError, StorageError
from embedkd.storage import LocalStorage, Storage, open_storage
from tests.storage.contract import Holding, ReadingContract, StorageContract
from tests.storage.servers import QUICK, web


def _filled(storage: Storage, objects: Mapping[str, bytes]) -> Storage:
    for key, data in objects.items():
        storage.put_new(key, data)
    return storage


class TestLocal(StorageContract):
    @pytest.fixture
    def holding(self, tmp_path: Path) -> Holding:
        return lambda objects: _filled(LocalStorage(tmp_path / "root"), objects)


class TestMemory(StorageContract):
    @pytest.fixture(params=["", "/a/prefix"])
    def holding(self, request: pytest.FixtureRequest, memory_url: str) -> Holding:
        return lambda objects: _filled(open_storage(memory_url + request.param), objects)


class TestS3(StorageContract):
    @pytest.fixture
    def holding(self, bucket: str) -> Holding:
        return lambda objects: _filled(open_storage(f"s3://{bucket}/a/prefix", limits=QUICK), objects)

    def test_a_whole_bucket_is_a_root_too(self, holding: Holding, bucket: str) -> None:
        holding({"a": b"x"})
        storage = open_storage(f"s3://{bucket}", limits=QUICK)
        storage.put_new("top", b"y")
        assert storage.list_names("") == ["a", "top"]
        assert storage.list_names("a/prefix") == ["a"]
        assert storage.get("a/prefix/a") == b"x"
        assert storage.get("top") == b"y"


class TestHTTP(ReadingContract):
    """Of a server that knows ranges, and of one that does not."""

    @pytest.fixture(params=["ranges", "no ranges"])
    def holding(
        self, request: pytest.FixtureRequest, put_files: Callable[[dict[str, bytes]], Path]
    ) -> Iterator[Holding]:
        with ExitStack() as stack:

            def serve(objects: Mapping[str, bytes]) -> Storage:
                folder = put_files(dict(objects))
                port = stack.enter_context(web(folder.parent, ranges=request.param == "ranges"))
                return open_storage(f"http://127.0.0.1:{port}/{folder.name}/", limits=QUICK)

            yield serve

    def test_it_cannot_list(self, holding: Holding) -> None:
        with pytest.raises(ListingError, match=r"is plain HTTP, which cannot list .* only once it is sealed"):
            holding({"a": b""}).list_names("")

    def test_it_cannot_write(self, holding: Holding) -> None:
        storage = holding({"a": b"x"})
        calls: list[Callable[[], None]] = [
            lambda: storage.put_new("a", b""),
            lambda: storage.replace("a", b""),
            lambda: storage.remove("a"),
        ]
        for call in calls:
            with pytest.raises(StorageError, match=r"cannot write .*/a: plain HTTP is for reading"):
                call()
        assert storage.get("a") == b"x"
