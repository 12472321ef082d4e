"""Seeds, servers and disks for storms."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.faults.storms import Bucket, Zygote, running_bucket
from tests.storage.conftest import bucket, proxy, s3_port, surroundings  # noqa: F401 - fixtures

_TOLD = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = terminalreporter.config.stash.get(_TOLD, [])
    if told:
        terminalreporter.section("storms")
        for line in told:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Puts a line into the summary of the run: how much was done cannot be seen from a dot."""
    return request.config.stash.setdefault(_TOLD, []).append


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for everything: ``--storm``."""
    return bool(request.config.getoption("--storm"))


@pytest.fixture(scope="session")
def storm_seed(request: pytest.FixtureRequest) -> int:
    """Decides every random choice; a failure shows it, and ``--storm-seed`` gives it back."""
    return int(request.config.getoption("--storm-seed"))


@pytest.fixture(autouse=True, scope="session")
def fast_disk() -> Iterator[None]:
    """Nobody pulls the plug during these tests; tests/storage proves that everything is synced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts writers in milliseconds."""
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Bucket]:
    """A bucket behind a proxy, for storms."""
    with running_bucket() as made:
        yield made


@pytest.fixture
def storm_bucket(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The same; this process reads it past the proxy."""
    for name, value in server.direct.items():
        monkeypatch.setenv(name, value)
    return server
