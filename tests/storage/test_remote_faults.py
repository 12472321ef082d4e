"""A real S3 server behind a proxy that breaks things: what is lost, what is repeated, and what an error says."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from embedkd.errors import ObjectExistsError, ObjectMissingError, StorageError
from embedkd.storage import Storage, open_storage
from embedkd.store.access import put_or_keep
from tests.storage.contract import LONG
from tests.storage.proxy import Breakage, Proxy, canned
from tests.storage.servers import HASTY, QUICK

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY = [breakage for breakage in Breakage if breakage not in {Breakage.NONE, Breakage.HOLD}]
LOST_ANSWERS = [Breakage.DROP_AFTER, Breakage.STALL, Breakage.ANSWER_503_AFTER]
STALLS = {Breakage.STALL, Breakage.STALL_BODY}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def warm(through_proxy: Storage, proxy: Proxy) -> Storage:
    """The probe is done, and an object is there."""
    through_proxy.put_new("there", LONG)
    proxy.requests.clear()
    return through_proxy


@pytest.fixture
def broken(warm: Storage, proxy: Proxy, breakage: Breakage) -> Storage:
    """The same for a breakage: impatient where that is a server that stalls."""
    if breakage not in STALLS:
        return warm
    hasty = open_storage(warm.url, limits=HASTY)
    hasty.put_new("probed", b"")
    proxy.requests.clear()
    return hasty


@pytest.mark.parametrize("breakage", EVERY)
def test_reads_survive_one_of_everything(broken: Storage, proxy: Proxy, breakage: Breakage) -> None:
    calls: dict[str, Callable[[], bool]] = {
        "get": lambda: broken.get("there") == LONG,
        "range": lambda: broken.get_range("there", 5, 200_000) == LONG[5:200_005],
        "stream": lambda: b"".join(broken.stream("there", 7)) == LONG[7:],
        "size": lambda: broken.size("there") == len(LONG),
        "exists": lambda: broken.exists("there"),
        "missing": lambda: not broken.exists("missing"),
        "list": lambda: "there" in broken.list_names(""),
    }
    for name, call in calls.items():
        proxy.calms()
        proxy.breaks(breakage)
        assert call(), name


@pytest.mark.parametrize("breakage", EVERY)
def test_writes_survive_one_of_everything(broken: Storage, proxy: Proxy, breakage: Breakage) -> None:
    proxy.breaks(breakage, method="PUT")
    broken.put_new("new", b"mine")
    assert proxy.methods().count("PUT") >= 1
    proxy.calms()
    assert broken.get("new") == b"mine"
    with pytest.raises(ObjectExistsError):
        broken.put_new("new", b"other")


@pytest.mark.parametrize("breakage", EVERY)
def test_replacing_and_removing_survive_one_of_everything(broken: Storage, proxy: Proxy, breakage: Breakage) -> None:
    proxy.breaks(breakage, method="PUT")
    broken.replace("there", b"new")
    proxy.calms()
    assert broken.get("there") == b"new"
    proxy.breaks(breakage, method="DELETE")
    broken.remove("there")
    proxy.calms()
    assert not broken.exists("there")


@pytest.mark.parametrize("breakage", LOST_ANSWERS)
def test_a_put_whose_answer_was_lost_is_a_success(broken: Storage, proxy: Proxy, breakage: Breakage) -> None:
    """The second attempt is refused by our own object: equal bytes are ours, and no conflict."""
    proxy.breaks(breakage, method="PUT")
    broken.put_new("new", b"mine")
    assert proxy.methods()[:2] == ["PUT", "PUT"]
    assert proxy.methods()[-1] == "GET"


@pytest.mark.parametrize("breakage", [*LOST_ANSWERS, Breakage.DROP_BEFORE, Breakage.ANSWER_409])
def test_a_put_that_another_won_meanwhile_is_a_conflict(
    broken: Storage, proxy: Proxy, bucket: str, breakage: Breakage
) -> None:
    open_storage(f"s3://{bucket}/deep/prefix", limits=QUICK).put_new("new", b"theirs")
    proxy.breaks(breakage, method="PUT")
    with pytest.raises(ObjectExistsError, match="new exists already"):
        broken.put_new("new", b"mine")
    assert broken.get("new") == b"theirs"


@pytest.mark.parametrize("breakage", LOST_ANSWERS)
def test_put_or_keep_keeps_what_is_there_whoever_put_it(broken: Storage, proxy: Proxy, breakage: Breakage) -> None:
    proxy.breaks(breakage, method="PUT")
    assert put_or_keep(broken, "new", b"mine") == b"mine"
    proxy.breaks(breakage, method="PUT")
    assert put_or_keep(broken, "new", b"other") == b"mine"


def test_a_writer_that_wakes_up_changes_nothing(warm: Storage, proxy: Proxy) -> None:
    """Its put was on its way while another one put and committed."""
    proxy.breaks(Breakage.HOLD, method="PUT")
    with ThreadPoolExecutor(1) as pool:
        stalled = pool.submit(put_or_keep, warm, "new", b"late")
        while not proxy.requests:
            time.sleep(0.001)
        open_storage(warm.url, limits=QUICK).put_new("new", b"first")
        proxy.released.set()
        assert stalled.result(30) == b"first"
    assert warm.get("new") == b"first"


def test_a_put_that_arrives_long_after_it_was_given_up_changes_nothing(warm: Storage, proxy: Proxy) -> None:
    """The client repeated it meanwhile, and that one came through."""
    hasty = open_storage(warm.url, limits=HASTY)
    hasty.put_new("probed", b"")
    proxy.breaks(Breakage.HOLD, method="PUT")
    hasty.put_new("new", b"mine")
    proxy.released.set()
    with pytest.raises(ObjectExistsError):
        warm.put_new("new", b"other")
    assert warm.get("new") == b"mine"


def test_a_put_that_exists_at_the_first_answer_is_not_read_back(warm: Storage, proxy: Proxy) -> None:
    with pytest.raises(ObjectExistsError):
        warm.put_new("there", LONG)
    assert proxy.methods() == ["PUT"]


def test_a_storm_ends_in_one_line(warm: Storage, proxy: Proxy) -> None:
    for call, verb in (
        (lambda: warm.get("there"), "read"),
        (lambda: warm.put_new("x", b""), "write"),
        (lambda: warm.list_names("y"), "list"),
        (lambda: warm.exists("there"), "look at"),
        (lambda: warm.replace("there", b""), "write"),
        (lambda: warm.remove("there"), "remove"),
    ):
        proxy.requests.clear()
        proxy.breaks(*[Breakage.ANSWER_503] * 50)
        with pytest.raises(StorageError, match=rf"^cannot {verb} {warm.url}/\w+: the server answered 503[^\n]*$"):
            call()
        assert len(proxy.requests) == QUICK.attempts
        proxy.calms()


@pytest.mark.parametrize(
    ("breakage", "says"),
    [
        (Breakage.STALL, "the server took too long"),
        (Breakage.STALL_BODY, "the server took too long"),
        (Breakage.DROP_BEFORE, "the connection broke"),
        (Breakage.CUT_BODY, "the connection broke"),
        (Breakage.ANSWER_429, "the server answered 429"),
    ],
)
def test_what_never_ends_is_given_up(warm: Storage, proxy: Proxy, breakage: Breakage, says: str) -> None:
    short = open_storage(warm.url, limits=replace(HASTY, attempts=3))
    short.put_new("small", b"12345678")
    proxy.breaks(*[breakage] * 50)
    with pytest.raises(StorageError, match=says):
        short.get("small")
    assert proxy.methods().count("GET") == 3


def test_a_cut_body_goes_on_where_it_was_cut(warm: Storage, proxy: Proxy) -> None:
    proxy.breaks(*[Breakage.CUT_BODY] * 2, method="GET")
    assert warm.get("there") == LONG
    assert proxy.methods() == ["GET"] * 3
    assert sum(len(LONG) >> n for n in (1, 2)) > len(LONG) // 2, "each attempt brought half of what was left"


def test_an_object_that_is_replaced_on_the_way_is_not_mixed(
    bucket: str, proxy: Proxy, s3_port: int, warm: Storage
) -> None:
    """Cannot happen with create-only puts; a tar on a server can be replaced at any time."""
    import obstore
    from obstore.store import S3Store

    stream = warm.stream("there")
    first = next(stream)
    other = S3Store(bucket, endpoint=f"http://127.0.0.1:{s3_port}", client_options={"allow_http": True})
    proxy.breaks(Breakage.CUT_BODY, method="GET")
    restarted = warm.stream("there")
    begun = next(restarted)
    obstore.put(other, "deep/prefix/there", LONG[::-1])
    with pytest.raises(StorageError, match="it was replaced while it was read"):
        list(restarted)
    assert LONG.startswith(begun)
    assert LONG.startswith(first)


def test_probing_survives_lost_answers(through_proxy: Storage, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    """A first probe that is refused was made by its own first attempt: the server heeds conditions."""
    proxy.breaks(Breakage.DROP_AFTER, Breakage.ANSWER_503_AFTER, Breakage.ANSWER_503, method="PUT")
    through_proxy.put_new("a", b"first")
    with pytest.raises(ObjectExistsError):
        through_proxy.put_new("a", b"second")
    assert not caplog.records


def test_a_probe_that_cannot_be_deleted_stays_and_is_not_listed(through_proxy: Storage, proxy: Proxy) -> None:
    proxy.breaks(Breakage.ANSWER_500, method="DELETE")
    through_proxy.put_new("a", b"")
    assert proxy.methods().count("DELETE") == 1
    assert through_proxy.list_names("") == ["a"]


def test_the_probe_is_made_once_and_goes(through_proxy: Storage, proxy: Proxy, bucket: str) -> None:
    assert not through_proxy.exists("a")
    assert proxy.methods() == ["HEAD"], "who reads does not probe"
    through_proxy.put_new("a", b"")
    through_proxy.put_new("b", b"")
    paths = [path for method, path, _ in proxy.requests if method == "PUT"]
    assert [path.rsplit("/", 1)[1] for path in paths[2:]] == ["a", "b"]
    assert re.fullmatch(rf"/{bucket}/deep/prefix/\.probe-[0-9a-f]{{32}}\.tmp", paths[0])
    assert paths[0] == paths[1]
    probe = paths[0].rsplit("/", 1)[1]
    assert not through_proxy.exists(probe)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 403 F\r\nContent-Length: 0\r\n\r\n", r"access was denied \(403\); check the credentials"),
        (b"HTTP/1.1 401 F\r\nContent-Length: 0\r\n\r\n", "wants credentials"),
        (b"HTTP/1.1 418 F\r\nContent-Length: 0\r\n\r\n", "the server answered 418"),
        (b"HTTP/1.1 400 F\r\nContent-Length: 32\r\n\r\n<Error><Code>ExpiredToken</Code>", "session token has expired"),
        (b"HTTP/1.1 403 F\r\nContent-Length: 41\r\n\r\n<Error><Code>RequestTimeTooSkewed</Code>   ", "clock is wrong"),
        (b"HTTP/1.1 301 M\r\nContent-Length: 0\r\n\r\n", "another region; set AWS_REGION"),
        (b"HTTP/1.1 507 F\r\nContent-Length: 0\r\n\r\n", "no space left"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "does not say how long the object is"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "does not say how long the object is"),
        (b"HTTP/1.1 404 N\r\nContent-Length: 32\r\n\r\n<Error><Code>NoSuchBucket</Code>", "there is no such bucket"),
    ],
)  # fmt: skip
def test_what_does_not_help_is_not_repeated(monkeypatch: pytest.MonkeyPatch, answer: bytes, says: str) -> None:
    with canned(answer) as (port, taken):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(StorageError, match=says) as caught:
            open_storage("s3://bucket/x", limits=QUICK).get("key")
        assert len(taken) == 1
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, ObjectMissingError)


@pytest.mark.parametrize("scheme", ["http", "s3"])
@pytest.mark.parametrize("claimed", [10**15, 3_000_000])
def test_a_server_that_sends_without_end_is_read_to_the_limit(
    monkeypatch: pytest.MonkeyPatch, scheme: str, claimed: int
) -> None:
    with canned(OK % claimed, endless=b"x" * 65536) as (port, taken):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        storage = open_storage("s3://b/x" if scheme == "s3" else f"http://127.0.0.1:{port}", limits=QUICK)
        assert storage.get("key", limit_bytes=1000) == b"x" * 1001
        time.sleep(0.1)
        before = taken[0]
        time.sleep(0.1)
        assert taken[0] == before < 64 << 20, "the connection is closed"


def test_a_server_that_promises_more_than_it_has_is_given_up() -> None:
    with canned(OK % 1000 + b"abc") as (port, taken):
        with pytest.raises(StorageError, match=r"cannot read .*: the body was cut"):
            open_storage(f"http://127.0.0.1:{port}", limits=QUICK).get("key")
        assert len(taken) == QUICK.attempts


@pytest.mark.parametrize("range_", [b"bytes 5-7/10", b"bytes 0-1/10", b"nonsense"])
def test_another_range_than_asked_for_is_no_answer(range_: bytes) -> None:
    answer = b"HTTP/1.1 206 P\r\nContent-Range: %s\r\nContent-Length: 3\r\n\r\nabc" % range_
    with canned(answer) as (port, _), pytest.raises(StorageError, match="cannot read"):
        open_storage(f"http://127.0.0.1:{port}", limits=QUICK).get_range("key", 0, 3)


def test_a_range_that_is_longer_than_it_says_is_cut() -> None:
    answer = b"HTTP/1.1 206 P\r\nContent-Range: bytes 2-4/10\r\nContent-Length: 6\r\n\r\nabcdef"
    with canned(answer) as (port, _):
        assert open_storage(f"http://127.0.0.1:{port}", limits=QUICK).get_range("key", 2, 3) == b"abc"


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with canned(b"") as (port, _):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(StorageError, match="cannot look at s3://b/x/key: no connection to the server"):
        open_storage("s3://b/x", limits=QUICK).exists("key")


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}-not", limits=QUICK)
    for call in (lambda: storage.get("a"), lambda: storage.put_new("a", b""), lambda: storage.list_names("")):
        with pytest.raises(StorageError, match=rf"s3://{bucket}-not.*: there is no such bucket") as caught:
            call()
        assert not isinstance(caught.value, ObjectMissingError)
    assert not storage.exists("a"), "a HEAD does not tell"
