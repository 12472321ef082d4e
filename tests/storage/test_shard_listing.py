"""Which shards there are in a bucket or on a web server, and how many requests it takes to know."""

from pathlib import Path

import pytest

from embedkd.errors import EmbedKDError, ShardError, StorageError
from embedkd.join import shard_samples
from embedkd.sources import remote
from embedkd.sources.roots import ShardSource
from embedkd.sources.shards import index_shards, list_data, root_of
from embedkd.storage import open_storage
from tests.storage.proxy import Proxy
from tests.storage.remote_shards import ROWS, upload, write_index
from tests.storage.servers import PLANTED, web
from tests.tiny import write_shard

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Shards at several depths, and what is none."""
    folder = tmp_path / "deep"
    for name in ("train-0.tar", "a/train-0.tar", "a/val-0.tar", "a/b/train-1.tar", "c/train-0.tar", "c/{x}.tar"):
        write_shard(folder / name, 1)
    for name in (".hidden/train-9.tar", "a/.train-9.tar", "notes.txt", "a/train-0.tar.sha256"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no shard")
    return folder


PATTERNS = (
    "",
    "/a",
    "/*.tar",
    "/a/*.tar",
    "/a/*",
    "/*/train-[0-9].tar",
    "/**/train-*.tar",
    "/**",
    "/a/**/*.tar",
    "/{a,c}/train-{0..0}.tar",
    "/{a/b,c}/train-*.tar",
    "/a/{train,val}-0.tar",
    "/train-0.tar",
)


@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_shards_are_found_as_on_a_disk(deep: Path, scheme: str, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue("memory_url") if scheme == "memory" else f"s3://{request.getfixturevalue('bucket')}"
    upload(deep, f"{place}/x/deep")
    for pattern in PATTERNS:
        here, there = list_data(f"{deep}{pattern}"), list_data(f"{place}/x/deep{pattern}")
        assert (there.names, there.sizes_bytes) == (here.names, here.sizes_bytes), pattern
        assert there.root == here.root.replace(str(deep), f"{place}/x/deep"), pattern
        for name, size in zip(there.names, there.sizes_bytes, strict=True):
            assert ShardSource(open_storage(there.root), name).size_bytes() == size


def test_an_index_spares_every_other_request(data: Path, bucket: str, proxy: Proxy) -> None:
    write_index(data)
    url = upload(data, f"s3://{bucket}/data")
    here = list_data(str(data))
    for pattern in ("", "/train-{0..1}.tar", "/val-0.tar"):
        proxy.requests.clear()
        there = list_data(url + pattern)
        assert proxy.methods() == ["GET"]
        assert set(there.indexed) <= set(here.indexed)
        assert there.classes == ("a", "b", "c")
        assert index_shards(there) == there.indexed
    assert list_data(url).indexed == here.indexed


def test_without_an_index_sizes_come_from_the_listing_or_by_one_request_each(
    data: Path, bucket: str, proxy: Proxy
) -> None:
    url = upload(data, f"s3://{bucket}/data")
    for pattern, heads in (("", 0), ("/*.tar", 0), ("/{train-0,train-1,val-0}.tar", 3), ("/val-0.tar", 1)):
        proxy.requests.clear()
        list_data(url + pattern)
        assert proxy.methods().count("HEAD") == heads
    proxy.requests.clear()
    assert root_of(url) == url
    assert not proxy.requests
    assert root_of(f"{url}/*.tar") == url


def test_an_index_that_does_not_fit_is_refused(data: Path, memory_url: str) -> None:
    write_index(data)
    url = upload(data, memory_url)
    write_shard(data / "train-2.tar", 1)
    write_shard(data / "train-1.tar", 12)
    upload(data, url)
    with pytest.raises(ShardError, match=r"disagree about train-2\.tar"):
        list_data(f"{url}/train-{{0,2}}.tar")
    with pytest.raises(ShardError, match=r"shard train-1\.tar has 40960 bytes, the index\.json of .* says"):
        list_data(f"{url}/train-[01].tar")
    listing = list_data(url)  # nobody asked the bucket; whoever reads the shard sees it
    samples = shard_samples(listing.indexed, listing.root)
    with pytest.raises(ShardError, match=r"^shard train-1\.tar is not the one that was indexed: expected \d+ bytes"):
        samples.reader().read(1, 0)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none", "no shards match .* holds no .tar object"),
        ("none-*.tar", "no shards match"),
        ("train-[7-9].tar", "no shards match .*; expected tars"),
        ("train-{0..4}.tar", r"cannot open shard train-[234]\.tar: there is none at"),
        ("{train-0,../x}.tar", r"expected a shard below its data folder, got '\.\./x\.tar'"),
        ("{0..99999999}.tar", "expected a pattern of up to"),
    ],
)
def test_what_names_no_shards_is_refused_in_one_line(data: Path, bucket: str, path: str, reason: str) -> None:
    upload(data, f"s3://{bucket}")
    with pytest.raises((ShardError, StorageError), match=reason) as refused:
        list_data(f"s3://{bucket}/{path}")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "url", ["s3://user:{}@b/x", "https://h/x.tar?{}", "ftp://{}/x", "s3://b/x#{}", "http://{}@h/x"]
)
def test_a_url_that_is_refused_is_not_repeated(url: str) -> None:
    with pytest.raises(EmbedKDError) as refused:
        list_data(url.format(PLANTED[1]))
    assert PLANTED[1] not in str(refused.value)


def test_a_bucket_of_too_many_objects_is_refused(data: Path, memory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(data, memory_url)
    monkeypatch.setattr(remote, "MAX_LISTED", 2)
    with pytest.raises(StorageError, match="lists more than 2 objects"):
        list_data(memory_url)


def test_plain_http_needs_an_index_or_names(data: Path) -> None:
    with web(data.parent, ranges=True) as port:
        url = f"http://127.0.0.1:{port}/data"
        for pattern in ("", "/train-*.tar"):
            with pytest.raises(
                ShardError, match=r"which cannot list .*; name the shards, as in .*, or put the index\.js"
            ):
                list_data(url + pattern)
        named = list_data(f"{url}/{{train-0,train-1,val-0}}.tar")
        assert (named.root, named.names) == (url, tuple(ROWS))
        scanned = index_shards(named)
        assert scanned == index_shards(list_data(str(data)))
        write_index(data)
        assert list_data(url).indexed == scanned
        assert [s.url for s in list_data(f"{url}/val-0.tar").indexed] == ["val-0.tar"]


def test_a_web_servers_names_may_be_typed_with_escapes(tmp_path: Path) -> None:
    write_shard(tmp_path / "a b" / "é 0.tar", 2)
    with web(tmp_path, ranges=True) as port:
        listing = list_data(f"http://127.0.0.1:{port}/a%20b/%C3%A9%20{{0..0}}.tar")
        assert listing.names == ("é 0.tar",)
        assert index_shards(listing)[0].rows == 2
