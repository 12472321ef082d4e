"""Servers that ignore that a put shall only create: found out, told, and lived with."""

import logging
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedkd.errors import ObjectExistsError
from embedkd.storage import Storage, open_storage
from embedkd.store.access import put_or_keep
from tests.storage.proxy import Breakage, Proxy, canned
from tests.storage.servers import QUICK, nanio


@pytest.fixture(scope="module")
def nanio_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("nanio")
    with nanio(folder) as port:
        yield port, folder


@pytest.fixture
def heedless(nanio_port: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a bucket whose server ignores all conditions."""
    port, folder = nanio_port
    name = f"bucket-{tmp_path.name.lower().replace('_', '-')[-40:]}"
    (folder / name).mkdir()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    return f"s3://{name}"


def test_it_is_told_once_and_only_to_writers(heedless: str) -> None:
    told: list[str] = []
    storage = open_storage(f"{heedless}/x", limits=QUICK, tell=told.append)
    assert not storage.exists("a")
    assert told == []
    for key in "abc":
        storage.put_new(key, b"")
    assert len(told) == 1
    assert told[0].startswith(f"{heedless}/x ignores that a put shall only create: ")
    assert "two writers that disagree can overwrite each other" in told[0]
    assert storage.list_names("") == ["a", "b", "c"], "the probe is gone"


def test_without_a_listener_it_is_logged(heedless: str, caplog: pytest.LogCaptureFixture) -> None:
    pickle.loads(pickle.dumps(open_storage(heedless, limits=QUICK))).put_new("a", b"")
    assert [(r.name, r.levelno) for r in caplog.records] == [("embedkd.storage", logging.WARNING)]


def test_a_server_that_heeds_them_is_not_told_of(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    open_storage(f"s3://{bucket}").put_new("a", b"")
    assert not caplog.records


def test_who_comes_second_sees_the_first(heedless: str) -> None:
    first, second = (open_storage(heedless, limits=QUICK) for _ in range(2))
    first.put_new("a", b"first")
    with pytest.raises(ObjectExistsError):
        second.put_new("a", b"second")
    assert put_or_keep(second, "a", b"second") == b"first"


def test_what_is_lost_two_writers_at_once_overwrite_each_other(heedless: str) -> None:
    """Both looked before one of them put. With equal bytes nothing is lost, and that is what passes write."""
    look, storages = threading.Barrier(2), [open_storage(heedless, limits=QUICK) for _ in range(2)]
    for number, storage in enumerate(storages):
        storage.put_new(f"probed-{number}", b"")

    def put(number: int) -> bytes:
        storage = storages[number]
        is_there = storage._is_there  # type: ignore[attr-defined]

        def together(path: str) -> bool:
            found = bool(is_there(path))
            look.wait(10)
            return found

        storage._is_there = together  # type: ignore[attr-defined]
        return put_or_keep(storage, "a", b"%d" % number)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(put, range(2))) == [b"0", b"1"], "both believe that theirs stays"
    assert storages[0].get("a") in {b"0", b"1"}


@pytest.mark.parametrize("breakage", [Breakage.DROP_AFTER, Breakage.ANSWER_503_AFTER])
def test_a_lost_answer_is_a_success_there_too(
    heedless: str, nanio_port: tuple[int, Path], monkeypatch: pytest.MonkeyPatch, breakage: Breakage
) -> None:
    with Proxy(nanio_port[0]).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        storage = open_storage(heedless, limits=QUICK)
        storage.put_new("probed", b"")
        proxy.breaks(breakage, method="PUT")
        storage.put_new("a", b"mine")
        assert proxy.methods()[-3:] == ["PUT", "HEAD", "GET"], "looked again, and read back"
    with pytest.raises(ObjectExistsError):
        storage_at(heedless, nanio_port[0], monkeypatch).put_new("a", b"mine")


def storage_at(url: str, port: int, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    return open_storage(url, limits=QUICK)


def test_a_server_that_refuses_conditions_is_used_without(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    refused = b"HTTP/1.1 501 N\r\nContent-Length: 34\r\n\r\n<Error><Code>NotImplemented</Code>"
    gone = b"HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n"
    fine = b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\n\r\n'
    with canned(refused, refused, gone, gone, fine) as (port, taken):  # two probes, its deletion, a look, a put
        storage = storage_at("s3://bucket", port, monkeypatch)
        storage._tell = told.append  # type: ignore[attr-defined]
        storage.put_new("a", b"")
        assert len(taken) == 5
    assert len(told) == 1
