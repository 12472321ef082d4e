"""What may stand in a URL, and that a refused one is never repeated."""

import subprocess
import sys

import pytest

from embedkd.errors import StorageError
from embedkd.storage import open_storage
from embedkd.storage.location import Location, check_endpoint, is_loopback

SECRET = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://bucket", Location("s3", "bucket", "")),
        ("s3://bucket/", Location("s3", "bucket", "")),
        ("s3://my.bucket-1/a/b.zarr/", Location("s3", "my.bucket-1", "a/b.zarr")),
        ("gs://bucket/a//b", Location("gs", "bucket", "a/b")),
        ("http://host:8080/a%20b", Location("http", "host:8080", "a%20b")),
        ("https://[::1]:99/x", Location("https", "[::1]:99", "x")),
        ("memory://name/x", Location("memory", "name", "x")),
    ],
)
def test_urls_are_taken_apart_and_put_together(url: str, location: Location) -> None:
    assert Location.of(url) == location
    assert Location.of(location.url) == location
    assert Location.of(location.url).url == location.url


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKIA:{SECRET}@bucket/x",
        f"s3://AKIA:{SECRET}/more@bucket/x",
        f"s3://AKIA:{SECRET}",
        f"https://user:{SECRET}@host/x",
        f"https://user:8080/{SECRET}@host/x",
        f"https://{SECRET}@host",
        f"http://host/x?X-Amz-Signature={SECRET}",
        f"http://host/x#{SECRET}",
        f"gs://bucket?token={SECRET}",
        f"ftp://user:{SECRET}@host/x",
        f"user:{SECRET}://host",
        f"memory://{SECRET}:x",
        f"file://{SECRET}/x",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StorageError, match=r"^expected [^\n]+$") as caught:
        open_storage(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///x", "s3://a b/x", "s3://b/../x", "s3://b/a/../../x", "https://", "https://h/%2e%2e/x", "memory://",
     "http://h/a\nb", "http://host:port/x", "gs://b/a\0", "http://h\\x/y"],
)  # fmt: skip
def test_urls_that_are_no_place(url: str) -> None:
    with pytest.raises(StorageError, match=r"^expected "):
        open_storage(url)


@pytest.mark.parametrize("url", ["pipe://cat", "azure://x/y", "file://host/x", "://x", "S3://bucket/x"])
def test_urls_of_other_kinds_name_those_that_can_be_opened(url: str) -> None:
    with pytest.raises(StorageError, match=r"expected a local path or a URL like s3://bucket/prefix, .*, got "):
        open_storage(url)


def test_endpoints() -> None:
    for good in ("http://127.0.0.1:9000", "https://s3.example.com", "https://host/path", "http://[::1]:1/"):
        check_endpoint("AWS_ENDPOINT_URL", good)
    for bad in (f"http://user:{SECRET}@host", SECRET, f"ftp://{SECRET}", f"http://host/?x={SECRET}", "http://a b", ""):
        with pytest.raises(StorageError, match="in AWS_ENDPOINT_URL, without credentials") as caught:
            check_endpoint("AWS_ENDPOINT_URL", bad)
        assert SECRET not in str(caught.value)
    assert is_loopback("http://127.0.0.1:9000")
    assert is_loopback("http://[::1]")
    assert not is_loopback("http://127.0.0.1.example.com")


def test_a_local_storage_needs_no_client_library() -> None:
    code = (
        "import sys; from embedkd.storage import open_storage; open_storage('x').list_names('');"
        "print([name for name in ('obstore', 'ssl', 'logging', 'configparser') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
