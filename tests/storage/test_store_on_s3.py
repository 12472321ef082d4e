"""A whole store on a real S3 server: made, read, joined by two writers; and read over plain HTTP."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from embedkd.errors import ConflictError, EmbedKDError, ListingError
from embedkd.records import DecodePolicy
from embedkd.storage import LocalStorage, Storage, open_storage
from embedkd.store import EmbeddingStore, average, create_store, open_store, write_class_set
from embedkd.store.sealing import seal_store
from tests.storage.faulty import Fault, FaultyStorage
from tests.storage.proxy import Breakage, Proxy
from tests.storage.servers import QUICK, web
from tests.store.conftest import CAPACITY, Kit

OUTPUTS = ("cls", "pooled")


def _create(storage: Storage, kit: Kit) -> EmbeddingStore:
    return create_store(
        storage, kit.shards, root="../data", classes=kit.classes, policy=DecodePolicy(), capacity=CAPACITY
    )


def _make(storage: Storage, kit: Kit, seed: int = 0) -> EmbeddingStore:
    store = _create(storage, kit)
    kit.fill(store, kit.spec(), OUTPUTS, seed)
    view = open_store(storage).teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=2, seed=0))
    return store


def _check(storage: Storage, kit: Kit) -> None:
    """Everything that was written can be read, and is what was written."""
    view = open_store(storage).teacher()
    for slot in view.store.slots:
        expected = kit.rows(slot, kit.spec(), OUTPUTS)
        for output in OUTPUTS:
            read = view.read(slot, output)
            np.testing.assert_array_equal(read.keys, expected.keys)
            np.testing.assert_array_equal(read.labels, expected.labels)
            np.testing.assert_array_equal(read.status, expected.status[output])
            np.testing.assert_allclose(read.rows, expected.outputs[output], rtol=2e-3)
    assert view.class_set(None, "cls").mean.shape == (3, 6)


def _objects(storage: Storage, prefix: str = "") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in storage.list_names(prefix):
        key = f"{prefix}/{name}".lstrip("/")
        found |= {key: storage.get(key)} if storage.exists(key) else _objects(storage, key)
    return found


@pytest.fixture
def kit() -> Kit:
    return Kit()


def test_a_store_is_made_and_read(bucket: str, kit: Kit, tmp_path: Path) -> None:
    storage = open_storage(f"s3://{bucket}/stores/a.zarr", limits=QUICK)
    _make(storage, kit)
    _check(open_storage(f"s3://{bucket}/stores/a.zarr", limits=QUICK), kit)
    local = LocalStorage(tmp_path / "a.zarr")
    _make(local, kit)
    there, here = _objects(storage), _objects(local)
    assert there.keys() == here.keys()
    arrays = [key for key in here if "/c/" in key]
    assert len(arrays) >= 20
    assert all(there[key] == here[key] for key in arrays), "array bytes do not depend on the place"


def test_the_location_alone_opens_it(bucket: str, kit: Kit) -> None:
    _make(open_storage(f"s3://{bucket}/a.zarr"), kit)
    assert open_store(f"s3://{bucket}/a.zarr").teacher().spec == kit.spec()


def test_every_second_request_may_fail(bucket: str, proxy: Proxy, kit: Kit) -> None:
    """Answers are lost after success, so that every put finds its own object there."""
    storage = open_storage(f"s3://{bucket}/a.zarr", limits=QUICK)
    breakages = itertools.cycle([Breakage.DROP_AFTER, Breakage.ANSWER_503_AFTER])
    choose = proxy._choose

    def breaking_every_second(method: str, path: str) -> Breakage:
        if len(proxy.requests) % 2 == 0:
            proxy.breaks(next(breakages))
        return choose(method, path)

    proxy._choose = breaking_every_second  # type: ignore[method-assign]
    _make(storage, kit)
    _check(storage, kit)
    done = [breakage for _, _, breakage in proxy.requests]
    assert min(done.count(Breakage.DROP_AFTER), done.count(Breakage.ANSWER_503_AFTER)) > 25


def test_a_second_writer_with_the_same_rows_changes_nothing(bucket: str, kit: Kit) -> None:
    storage = open_storage(f"s3://{bucket}/a.zarr", limits=QUICK)
    store = _make(storage, kit)
    before = _objects(storage)
    kit.fill(store, kit.spec(), OUTPUTS)
    assert _objects(storage) == before
    with pytest.raises(ConflictError):
        kit.fill(store, kit.spec(), OUTPUTS, seed=1)
    assert _objects(storage) == before


@pytest.mark.parametrize("fault", list(Fault))
def test_after_any_failure_the_same_command_goes_on(memory_url: str, kit: Kit, fault: Fault) -> None:
    """Each operation fails in some run; whatever it leaves, a run without failures completes the store."""
    counted = FaultyStorage(open_storage(f"{memory_url}x"), {})
    _make(counted, kit)
    total = len(counted.operations)
    assert total > 100
    failed = 0
    for nth in range(0, total, 7):
        storage = open_storage(f"{memory_url}{fault.name}{nth}")
        try:
            _make(FaultyStorage(storage, {nth: fault}), kit)
        except EmbedKDError:
            failed += 1
        _make(storage, kit)
        _check(storage, kit)
    assert failed > total // 10


@pytest.fixture
def served(tmp_path: Path, kit: Kit) -> Iterator[tuple[str, LocalStorage]]:
    """A store that lies on a web server, and the folder."""
    local = LocalStorage(tmp_path / "www" / "a.zarr")
    _make(local, kit)
    with web(tmp_path / "www", ranges=False) as port:
        yield f"http://127.0.0.1:{port}/a.zarr", local


class _ListedElsewhere:
    """Reads over HTTP, lists the folder: what is left when nobody has to list."""

    def __init__(self, remote: Storage, listing: Callable[[str], list[str]]) -> None:
        self._remote = remote
        self.list_names = listing

    def __getattr__(self, name: str) -> object:
        return getattr(self._remote, name)


def test_plain_http_reads_all_but_lists(served: tuple[str, LocalStorage], kit: Kit) -> None:
    url, local = served
    with pytest.raises(ListingError, match="only once it is sealed"):
        open_store(url)
    reading: Storage = _ListedElsewhere(open_storage(url, limits=QUICK), local.list_names)  # type: ignore[assignment]
    _check(reading, kit)


def test_plain_http_reads_a_sealed_store(served: tuple[str, LocalStorage], kit: Kit) -> None:
    url, local = served
    seal_store(local)
    _check(open_storage(url, limits=QUICK), kit)
