"""Shards in buckets and on web servers, streamed and joined: over lines that break, while objects change."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from embedkd.errors import ShardError, StorageError, StoreError
from embedkd.join import Batch, JoinedShards, Samples, shard_samples, stored_samples
from embedkd.precompute.opening import check_listing
from embedkd.records import DecodePolicy
from embedkd.sources.reader import ShardStream
from embedkd.sources.roots import ShardSource
from embedkd.sources.shards import index_shards, list_data, root_of
from embedkd.storage import LocalStorage, Storage, open_storage
from embedkd.store import Pass, PassWriter, create_store, open_store, remembered_root, seal_store
from tests.join.conftest import slot_rows
from tests.storage.proxy import Breakage, Proxy
from tests.storage.remote_shards import upload
from tests.storage.servers import HASTY, PLANTED, QUICK, web
from tests.tiny import OUTPUTS, SPEC, augmented, tar_at, write_shard, write_tar

pytestmark = pytest.mark.usefixtures("quick")


def samples_in(source: ShardSource) -> tuple[list[object], int, str]:
    with ShardStream(source) as stream:
        found = [(s.key, s.ordinal, dict(s.fields), s.place) for s in stream]
    return list(found), stream.size_bytes, stream.blake2b


@pytest.fixture
def long_tar(tmp_path: Path) -> Path:
    """Several chunks of every reader on the way."""
    members = [(f"{n:03d}.{suffix}", bytes([n]) * (30_000 + n)) for n in range(60) for suffix in ("jpg", "txt")]
    return write_tar(tmp_path / "long.tar", members)


@pytest.mark.parametrize(
    "breakages",
    [
        (Breakage.CUT_BODY, Breakage.CUT_BODY, Breakage.CUT_BODY),
        (Breakage.ANSWER_503, Breakage.DROP_BEFORE, Breakage.CUT_BODY, Breakage.ANSWER_429, Breakage.DROP_AFTER),
        (Breakage.STALL_BODY, Breakage.STALL, Breakage.STALL_BODY),
    ],
)
def test_a_tar_goes_on_in_the_middle_with_the_same_samples(
    bucket: str, proxy: Proxy, long_tar: Path, breakages: tuple[Breakage, ...]
) -> None:
    storage = open_storage(f"s3://{bucket}", limits=HASTY)
    storage.put_new("long.tar", long_tar.read_bytes())
    proxy.breaks(*breakages, method="GET")
    assert samples_in(ShardSource(storage, "long.tar")) == samples_in(tar_at(long_tar))
    assert proxy.methods().count("GET") > len(breakages)


def test_a_server_that_stays_away_is_one_line(bucket: str, proxy: Proxy, long_tar: Path) -> None:
    storage = open_storage(f"s3://{bucket}", limits=QUICK)
    storage.put_new("long.tar", long_tar.read_bytes())
    for before in ((Breakage.CUT_BODY,), ()):  # in the middle, and at once
        proxy.breaks(*before, *[Breakage.ANSWER_503] * 50, method="GET")
        with pytest.raises(
            (StorageError, ShardError), match=r"cannot read .*long\.tar: the server answered 503"
        ) as refused:
            samples_in(ShardSource(storage, "long.tar"))
        assert len(str(refused.value).splitlines()) == 1
        proxy.calms()


def test_a_tar_that_is_replaced_while_it_is_read_is_no_mixture(bucket: str, proxy: Proxy, long_tar: Path) -> None:
    storage = open_storage(f"s3://{bucket}", limits=QUICK)
    data = long_tar.read_bytes()
    storage.put_new("long.tar", data)
    proxy.breaks(Breakage.CUT_BODY, method="GET")
    with ShardStream(ShardSource(storage, "long.tar")) as stream:
        samples = iter(stream)
        next(samples)
        storage.replace("long.tar", data[:512] + bytes([data[512] ^ 1]) + data[513:])
        with pytest.raises(StorageError, match="it was replaced while it was read; read it again"):
            list(samples)


def make_store(url: str, data: Path, root: str) -> Storage:
    """A sealed store of what the tiny teacher says of the shards on the disk, which it remembers at ``root``."""
    storage = open_storage(url)
    shards = index_shards(list_data(str(data)))
    store = create_store(
        storage, shards, root=remembered_root(root, storage.url), classes=None, policy=DecodePolicy(), capacity=8
    )
    writer = PassWriter(store, SPEC, Pass(OUTPUTS, 4, 1, "cpu"))
    for slot in store.slots:
        name = slot.shard.url
        keys = [f"{Path(name).stem}/{number:03d}" for number in range(slot.shard.rows)]
        writer.write(slot, slot_rows(slot, data, keys, {}, labels=True), {})
    seal_store(storage)
    return storage


def dataset(samples: Samples) -> JoinedShards:
    return JoinedShards(samples, augmented, global_batch_size=4, epochs=2, seed=3)


def train_samples(store: str, data: str | None = None) -> Samples:
    return stored_samples(open_store(store).teacher(), "train", OUTPUTS, data=data)


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert [batch.keys for batch in ours] == [batch.keys for batch in theirs]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            (a.pixels, a.labels, dict(a.targets)), (b.pixels, b.labels, dict(b.targets)), rtol=0, atol=0
        )


@pytest.fixture
def expected(data: Path, tmp_path: Path) -> list[Batch]:
    """What training reads from the disk."""
    make_store(str(tmp_path / "store.zarr"), data, str(data))
    return list(dataset(train_samples(str(tmp_path / "store.zarr"))))


@pytest.fixture
def beside(data: Path, bucket: str) -> str:
    """A store in a bucket beside its shards."""
    upload(data, f"s3://{bucket}/some/data")
    make_store(f"s3://{bucket}/some/store.zarr", data, f"s3://{bucket}/some/data")
    return f"s3://{bucket}/some/store.zarr"


def test_a_store_beside_its_shards_needs_nothing_else(expected: list[Batch], beside: str) -> None:
    assert_equal(list(dataset(train_samples(beside))), expected)


def test_each_sample_is_one_request_and_each_tar_is_asked_once(
    expected: list[Batch], beside: str, proxy: Proxy
) -> None:
    batches = iter(dataset(train_samples(beside)))
    proxy.requests.clear()
    assert_equal(list(batches), expected)
    tars = [method for method, path, _ in proxy.requests if path.endswith(".tar")]
    assert tars.count("GET") == sum(len(batch.keys) for batch in expected)
    assert tars.count("HEAD") == 2


def test_the_samples_of_a_batch_are_read_at_once(expected: list[Batch], beside: str, proxy: Proxy) -> None:
    data = dataset(train_samples(beside))
    found = [data.batch(0, 0)]
    proxy.requests.clear()
    proxy.breaks(Breakage.HOLD, method="GET")
    reading = threading.Thread(target=lambda: found.append(data.batch(0, 1)))
    reading.start()
    until = time.monotonic() + 20
    while len(proxy.requests) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    waiting = len(proxy.requests)
    proxy.released.set()
    reading.join()
    assert waiting == 4
    assert_equal(found, expected[:2])


@pytest.mark.parametrize(
    "breakage", [Breakage.CUT_BODY, Breakage.ANSWER_503, Breakage.DROP_AFTER, Breakage.DROP_BEFORE]
)
def test_batches_are_the_same_over_a_line_that_breaks(
    expected: list[Batch], beside: str, proxy: Proxy, breakage: Breakage
) -> None:
    samples = train_samples(beside)
    fine = Breakage.NONE  # five in all: one request may meet them all, and gives up after six
    proxy.breaks(breakage, fine, fine, breakage, *[fine] * 20, breakage, breakage, *[fine] * 9, breakage)
    assert_equal(list(dataset(samples)), expected)


def test_a_changed_sample_in_a_bucket_is_found_before_it_is_used(beside: str, data: Path) -> None:
    root = open_storage(beside.replace("store.zarr", "data"))
    tar = (data / "train-1.tar").read_bytes()
    root.replace("train-1.tar", tar[:600] + bytes([tar[600] ^ 4]) + tar[601:])
    with pytest.raises(
        ShardError, match=r"^sample 0 of train-1\.tar \(.*\) is not the one that was indexed; restore the sh"
    ):
        list(dataset(train_samples(beside)))
    root.replace("train-1.tar", tar[:-512])
    with pytest.raises(
        ShardError, match=rf"^shard train-1\.tar .*: expected {len(tar)} bytes, got {len(tar) - 512} at s3:"
    ):
        list(dataset(train_samples(beside)))
    root.remove("train-1.tar")
    with pytest.raises(
        ShardError, match=r"^cannot open shard train-1\.tar: there is none at s3://.*; restore it, or name"
    ):
        list(dataset(train_samples(beside)))


def test_a_store_that_was_copied_away_says_what_is_missing(
    expected: list[Batch], beside: str, data: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "copy" / "store.zarr"
    there, here = open_storage(beside), LocalStorage(copied)
    for key in all_keys(there):
        here.put_new(key, there.get(key))
    with pytest.raises(
        ShardError, match=r"^cannot open shard train-\d\.tar: there is none at .*copy/data; .* with --data$"
    ):
        list(dataset(train_samples(str(copied))))
    for place in (str(data), beside.replace("store.zarr", "data"), f"file://{data}"):
        assert_equal(list(dataset(train_samples(str(copied), root_of(place)))), expected)


def all_keys(storage: Storage, prefix: str = "") -> Iterator[str]:
    for name in storage.list_names(prefix):
        key = f"{prefix}/{name}".lstrip("/")
        if storage.exists(key):
            yield key
        else:
            yield from all_keys(storage, key)


def test_a_store_that_cannot_know_where_its_shards_lie(data: Path, bucket: str) -> None:
    make_store(f"s3://{bucket}/store.zarr", data, str(data))
    with pytest.raises(ShardError, match="name their place with --data"):
        list(dataset(train_samples(f"s3://{bucket}/store.zarr")))


def test_a_sealed_store_and_its_shards_on_a_web_server(expected: list[Batch], data: Path, tmp_path: Path) -> None:
    with web(tmp_path, ranges=True) as port:
        url = f"http://127.0.0.1:{port}"
        assert_equal(list(dataset(train_samples(f"{url}/store.zarr"))), expected)
        assert_equal(list(dataset(train_samples(str(tmp_path / "store.zarr"), root_of(f"{url}/data")))), expected)


def test_plain_shards_in_a_bucket_are_read_as_from_a_disk(data: Path, bucket: str, proxy: Proxy) -> None:
    url = upload(data, f"s3://{bucket}/plain")
    found = []
    for place in (str(data), url):
        listing = list_data(place)
        found.append(list(dataset(shard_samples(index_shards(listing), listing.root))))
        proxy.breaks(*[Breakage.CUT_BODY, Breakage.NONE, Breakage.NONE, Breakage.NONE] * 2, method="GET")
    assert [chosen for _, _, chosen in proxy.requests].count(Breakage.CUT_BODY) == 2
    proxy.calms()
    assert_equal(*found)


def test_unindexed_shards_of_a_store_that_is_there_are_not_read_again(beside: str, data: Path, proxy: Proxy) -> None:
    """They are hashed when they are streamed; before that, names and lengths decide."""
    url = beside.replace("store.zarr", "data")
    proxy.requests.clear()
    check_listing(open_store(beside), list_data(url))
    assert not any(path.endswith(".tar") for _, path, _ in proxy.requests)
    write_shard(data / "train-1.tar", 12)
    upload(data, url)
    with pytest.raises(StoreError, match=r"was made from other shards \(train-1\.tar\)"):
        check_listing(open_store(beside), list_data(url))


def test_no_credential_is_in_a_listing_a_reader_or_a_manifest(beside: str, data: Path) -> None:
    listing = list_data(beside.replace("store.zarr", "data"))
    samples = train_samples(beside)
    reader = samples.reader()
    reader.read(0, 0)
    documents = [open_storage(beside).get(key) for key in all_keys(open_storage(beside)) if key.endswith(".json")]
    source = ShardSource(open_storage(listing.root), "none.tar")
    with pytest.raises(ShardError) as refused:
        source.size_bytes()
    shown = "\n".join(
        map(repr, (listing, samples, vars(reader), source, refused.value, refused.value.__cause__, documents))
    )
    assert not any(planted in shown for planted in PLANTED)
