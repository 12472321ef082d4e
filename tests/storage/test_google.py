"""gs:// through the server that there is: Google's XML interface is S3's with other names for conditions."""

from collections.abc import Iterator

import pytest

from embedkd.errors import ObjectExistsError, ObjectMissingError
from embedkd.storage import Storage, open_storage
from tests.storage.contract import LONG
from tests.storage.proxy import Breakage, Proxy
from tests.storage.servers import QUICK, SECRET_KEY


def _as_s3(request: bytes) -> bytes:
    return request.replace(b"x-goog-if-generation-match: 0", b"if-none-match: *")


@pytest.fixture
def google(bucket: str, s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Storage, Proxy]]:
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", SECRET_KEY)
    with Proxy(s3_port, rewrite=_as_s3).running() as proxy:
        monkeypatch.setenv("GOOGLE_BASE_URL", f"http://127.0.0.1:{proxy.port}")
        yield open_storage(f"gs://{bucket}/prefix", limits=QUICK), proxy


def test_objects_are_created_once_read_listed_and_removed(google: tuple[Storage, Proxy]) -> None:
    storage, _ = google
    storage.put_new("a/b", LONG)
    storage.put_new("a/empty", b"")
    with pytest.raises(ObjectExistsError):
        storage.put_new("a/b", b"other")
    assert storage.get("a/b") == LONG
    assert storage.get("a/b", limit_bytes=10) == LONG[:11]
    assert storage.get_range("a/b", 200_000, 5) == LONG[200_000:200_005]
    assert storage.get_range("a/b", len(LONG), 5) == b""
    assert (storage.size("a/b"), storage.size("a/empty")) == (len(LONG), 0)
    assert storage.list_names("") == ["a"]
    assert storage.list_names("a") == ["b", "empty"]
    storage.replace("a/b", b"new")
    assert storage.get("a/b") == b"new"
    storage.remove("a/b")
    storage.remove("a/b")
    assert not storage.exists("a/b")
    with pytest.raises(ObjectMissingError):
        storage.get("a/b")


@pytest.mark.parametrize("breakage", [Breakage.DROP_AFTER, Breakage.ANSWER_503_AFTER])
def test_a_lost_answer_is_a_success(google: tuple[Storage, Proxy], breakage: Breakage) -> None:
    storage, proxy = google
    storage.put_new("probed", b"")
    proxy.breaks(breakage, method="PUT")
    storage.put_new("a", b"mine")
    assert proxy.methods()[-3:] == ["PUT", "PUT", "GET"]
