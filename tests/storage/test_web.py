"""Plain web servers, a stranger's among them: redirects, refusals, answers without end."""

import os
import ssl
import subprocess
import sys
import time
from urllib.error import URLError

import pytest

from embedkd.errors import ObjectMissingError, StorageError
from embedkd.storage import open_storage
from embedkd.storage.failures import Fault
from embedkd.storage.location import Location
from embedkd.storage.web import WebStorage, redirected
from tests.storage.proxy import Proxy, canned
from tests.storage.servers import QUICK

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"


def _redirect(target: str, length: int = 0) -> bytes:
    return b"HTTP/1.1 302 F\r\nLocation: %s\r\nContent-Length: %d\r\n\r\n" % (target.encode(), length)


def test_a_redirect_is_followed() -> None:
    with canned(OK) as (port, _), canned(_redirect(f"http://127.0.0.1:{port}/else where?x=1")) as (first, _):
        storage = open_storage(f"http://127.0.0.1:{first}", limits=QUICK)
        assert storage.get("a") == b"abc"
        assert storage.size("a") == 3
        assert storage.exists("a")


def test_a_range_is_still_wanted_after_a_redirect() -> None:
    heads: list[bytes] = []

    def note(request: bytes) -> bytes:
        heads.append(request)
        return request

    with (
        canned(b"HTTP/1.1 206 P\r\nContent-Range: bytes 5-7/9\r\nContent-Length: 3\r\n\r\nfgh") as (port, _),
        Proxy(port, rewrite=note).running() as proxy,
        canned(_redirect(f"http://127.0.0.1:{proxy.port}/b")) as (first, _),
    ):
        assert open_storage(f"http://127.0.0.1:{first}", limits=QUICK).get_range("a", 5, 3) == b"fgh"
    assert b"Range: bytes=5-7" in heads[0]


@pytest.mark.parametrize("target", ["/x", "file:///etc/passwd", "ftp://host/x", "", "data:,x", "gopher://x"])
def test_redirects_that_lead_nowhere_good(target: str) -> None:
    with canned(_redirect(target)) as (port, taken):
        with pytest.raises(StorageError, match=r"cannot read .*: the server sends us elsewhere, and nowhere good"):
            open_storage(f"http://127.0.0.1:{port}", limits=QUICK).get("a")
        assert len(taken) <= 6


def test_a_redirect_stays_encrypted() -> None:
    assert redirected("https://a/b", "https://c/d") == "https://c/d"
    assert redirected("http://a/b", "https://c/d") == "https://c/d"
    assert redirected("https://a/b/c", "../x") == "https://a/x"
    with pytest.raises(Exception, match="nowhere good"):
        redirected("https://a/b", "http://a/b")


@pytest.mark.parametrize("head", [b"HTTP/1.1 404 N", b"HTTP/1.1 503 S", b"HTTP/1.1 302 F\r\nLocation: /x"])
def test_what_comes_with_a_refusal_is_not_read(head: bytes) -> None:
    """An error's body of 10 TB: bounded time and memory."""
    answer = head + b"\r\nContent-Length: 9999999999999\r\n\r\n"
    with canned(answer, endless=b"x" * 65536) as (port, taken):
        with pytest.raises(StorageError):
            open_storage(f"http://127.0.0.1:{port}", limits=QUICK).get("a")
        time.sleep(0.05)
        assert all(sent < 64 << 20 for sent in taken)


def test_what_a_bucket_that_may_not_be_listed_lacks_is_missing() -> None:
    with canned(b"HTTP/1.1 403 F\r\nContent-Length: 0\r\n\r\n") as (port, taken):
        storage = open_storage(f"http://127.0.0.1:{port}", limits=QUICK)
        assert not storage.exists("a")
        with pytest.raises(ObjectMissingError):
            storage.get("a")
        assert len(taken) == 2


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nabc", "does not say how long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc", "does not say how long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc", "does not say how long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nabc", "does not say how long"),
        (b"nonsense\r\n\r\n", "the request failed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", "the request failed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 200 + b"\r\n", "the request failed"),
        (b"", "the connection broke"),
    ],
    ids=range(8),
)
def test_answers_that_are_none(answer: bytes, says: str) -> None:
    with canned(answer) as (port, _), pytest.raises(StorageError, match=says) as caught:
        open_storage(f"http://127.0.0.1:{port}", limits=QUICK).get("a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (URLError(ssl.SSLCertVerificationError("x")), Fault.PERMANENT),
        (URLError(ssl.SSLEOFError("x")), Fault.TRANSIENT),
        (URLError(OSError(-2, "Name or service not known")), Fault.TRANSIENT),
        (ssl.SSLError("x"), Fault.TRANSIENT),
    ],
)
def test_a_certificate_is_wanted(error: Exception, fault: Fault) -> None:
    assert WebStorage(Location.of("https://host")).failure_of(error).fault is fault


def test_errors_of_our_own_stay_what_they_are() -> None:
    for error in (KeyboardInterrupt(), ZeroDivisionError(), MemoryError()):
        with pytest.raises(type(error)):
            WebStorage(Location.of("https://host")).failure_of(error)


def test_a_body_that_drips_is_ended_by_the_time_of_a_request() -> None:
    limits = type(QUICK)(2, 0.001, 0.001, 1, 5, 0.3, 0.1)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"
    started = time.monotonic()
    with canned(head, drip=b"x") as (port, _), pytest.raises(StorageError, match="took too long"):
        open_storage(f"http://127.0.0.1:{port}", limits=limits).get("a")
    assert time.monotonic() - started < 20


def test_it_needs_no_client_library_and_can_be_forked() -> None:
    code = (
        "import os, sys; from embedkd.storage import open_storage; s = open_storage(sys.argv[1]);"
        "assert s.get('a') == b'abc'; assert 'obstore' not in sys.modules;"
        "pid = os.fork();"
        "pid or os._exit(0 if s.get('a') == b'abc' else 1);"
        "sys.exit(os.waitpid(pid, 0)[1])"
    )
    with canned(OK) as (port, _):
        environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        run = [sys.executable, "-W", "ignore", "-c", code, f"http://127.0.0.1:{port}"]
        subprocess.run(run, check=True, timeout=60, env=environment)
