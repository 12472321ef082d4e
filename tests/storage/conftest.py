"""Servers and credentials for tests of remote storage."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedkd.storage import Storage, open_storage, retries
from tests.storage.proxy import Proxy
from tests.storage.remote_shards import ROWS
from tests.storage.servers import ACCESS_KEY, QUICK, SECRET_KEY, SESSION_TOKEN, create_bucket, moto

pytest.register_assert_rewrite("tests.storage.contract")


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """One S3 server for all tests; each has a bucket of its own."""
    with moto() as port:
        yield port


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the machine's own user, and planted credentials."""
    for name in os.environ:
        if name.upper().startswith(("AWS_", "GOOGLE_")) or name.upper() in {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}:
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
def bucket(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket; the environment leads to its server."""
    name = f"bucket{uuid.uuid4().hex}"
    create_bucket(s3_port, name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    return name


@pytest.fixture
def proxy(bucket: str, s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Before the bucket's server; the environment leads to it."""
    with Proxy(s3_port).running() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.port}")
        yield running


@pytest.fixture
def through_proxy(bucket: str, proxy: Proxy) -> Storage:
    """A storage behind the proxy that gives up soon."""
    return open_storage(f"s3://{bucket}/deep/prefix", limits=QUICK)


@pytest.fixture
def memory_url() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def put_files(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Writes files below a folder."""

    def put(objects: dict[str, bytes]) -> Path:
        folder = tmp_path / "served"
        folder.mkdir()
        for key, data in objects.items():
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(data)
        return folder

    return put


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever opens a storage gives up soon, and the disk is not waited for."""
    monkeypatch.setattr(retries, "DEFAULT_LIMITS", QUICK)
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Shards on the disk."""
    from tests.tiny import write_shard  # it brings torch, which other tests of storages do without

    for name, rows in ROWS.items():
        write_shard(tmp_path / "data" / name, rows)
    return tmp_path / "data"
