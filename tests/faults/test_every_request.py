"""Every request to a real S3 server is broken on its way, in every way that a network knows.

What is done in each run: a store is made, filled, sealed, and read. A patient client comes through; one that gives up
at once says so in a line, and the same command ends in the same bytes.
"""

import itertools
import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from embedkd.errors import EmbedKDError
from embedkd.storage import Storage, open_storage
from embedkd.storage.retries import Limits
from embedkd.store import seal_store
from tests.faults.held import HeldStorage, settled
from tests.faults.scenes import PASSES, SMALL, check_message, create, fill, read_everything, verify
from tests.faults.storms import state_of
from tests.storage.proxy import Breakage, Proxy
from tests.storage.servers import QUICK

IMPATIENT = replace(QUICK, attempts=1)
AT_ONCE = (
    Breakage.DROP_BEFORE,
    Breakage.DROP_AFTER,
    Breakage.CUT_BODY,
    Breakage.ANSWER_503,
    Breakage.ANSWER_503_AFTER,
    Breakage.ANSWER_500,
)
STALLS = (Breakage.STALL, Breakage.STALL_BODY)
PERIOD = 6
HASTY = replace(QUICK, read_s=0.5, attempts=12)  # a busy server must not look like one that stalls


def write(storage: Storage) -> None:
    """A store of two samples, from nothing to a seal."""
    fill(create(storage, SMALL[1:]), PASSES[:1])
    seal_store(storage)


def steady(state: dict[str, bytes]) -> dict[str, bytes]:
    """What a run ends in; a seal depends on ids that are drawn."""
    return {key: data for key, data in settled(state).items() if "sealed/" not in key}


class Line:
    """Places behind the proxy, and past it."""

    def __init__(self, bucket: str, proxy: Proxy, patch: pytest.MonkeyPatch) -> None:
        held = HeldStorage()
        write(held)
        self.proxy = proxy
        self._bucket = bucket
        self._patch = patch
        self._said = read_everything(held)
        self._state = steady(held.state)

    def storage(self, limits: Limits = QUICK, place: str = "") -> Storage:
        """Behind the proxy: a new place, or one that is named."""
        return open_storage(f"s3://{self._bucket}/{place or uuid.uuid4().hex}", limits=limits)

    def check(self, storage: Storage) -> None:
        """What lies there is what has to; read past the proxy."""
        self.proxy.calms()
        with self._patch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{self.proxy.upstream}")
            assert steady(state_of(open_storage(storage.url, limits=QUICK))) == self._state

    def check_read(self, storage: Storage) -> None:
        assert read_everything(storage) == self._said

    def breaks_at(self, number: int, *breakages: Breakage) -> None:
        """Break the so-manieth request from now on, from 0, and those behind it."""
        self.proxy.calms()
        self.proxy.breaks(*[Breakage.NONE] * number, *breakages)

    def count(self) -> int:
        return len(self.proxy.requests)


@pytest.fixture
def line(bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(bucket, proxy, monkeypatch)


class FirstAttempts:
    """Breaks the first attempt of every request, each time in the next way.

    Args:
        turn: Which way is the first; so many runs as there are ways break every request in every way.
    """

    def __init__(self, turn: int) -> None:
        self._ways = itertools.islice(itertools.cycle(AT_ONCE), turn, None)
        self._again = False

    def __call__(self, method: str, path: str) -> Breakage:
        self._again = not self._again
        return next(self._ways) if self._again else Breakage.NONE


@pytest.mark.parametrize("turn", range(len(AT_ONCE)))
def test_a_patient_client_comes_through_whatever_breaks(line: Line, turn: int) -> None:
    storage, line.proxy.decide = line.storage(), FirstAttempts(turn)
    write(storage)
    line.check_read(storage)
    verify(storage)
    line.check(storage)
    done = [breakage for *_, breakage in line.proxy.requests]
    assert min(done.count(breakage) for breakage in AT_ONCE) > 10


def test_a_patient_client_comes_through_where_answers_never_come(line: Line) -> None:
    """Each request of some run; the runs wait side by side."""
    plans = list(itertools.product(STALLS, range(PERIOD)))
    counts = [itertools.count(first) for _, first in plans]

    def by_place(method: str, path: str) -> Breakage:
        at = int(re.findall(r"\brun-(\d+)", path)[0])
        return plans[at][0] if next(counts[at]) % PERIOD == 0 else Breakage.NONE

    storages = [line.storage(HASTY, f"run-{at}") for at in range(len(plans))]
    line.proxy.decide = by_place
    with ThreadPoolExecutor(len(plans)) as pool:
        list(pool.map(write, storages))
        list(pool.map(line.check_read, storages))
    for storage in storages:
        line.check(storage)


@pytest.mark.parametrize("done", [False, True], ids=["nothing was done", "it was done"])
def test_whichever_request_is_given_up_the_same_command_goes_on(line: Line, done: bool, thorough: bool) -> None:
    """Run after run at one place, each given up one request later; thoroughly, each at a place of its own."""
    storage, given_up = line.storage(IMPATIENT), 0
    for number in itertools.count():
        line.proxy.calms()
        line.proxy.decide = _at(number, done=done)
        before = line.count()
        try:
            write(storage)
        except EmbedKDError as error:
            given_up += 1
            check_message(error)
        if line.count() - before <= number:
            break
        if thorough:
            line.proxy.calms()
            write(storage)
            line.check(storage)
            storage = line.storage(IMPATIENT)
    line.check(storage)
    assert given_up > 20


def _at(number: int, *, done: bool) -> Callable[[str, str], Breakage]:
    """Break one request, in the way in which it loses most."""
    left = itertools.count(number, -1)

    def decide(method: str, path: str) -> Breakage:
        if next(left):
            return Breakage.NONE
        if not done:
            return Breakage.DROP_BEFORE
        return Breakage.CUT_BODY if method == "GET" else Breakage.DROP_AFTER

    return decide


def test_a_storm_of_503_that_is_shorter_than_patience_is_not_noticed(line: Line) -> None:
    storage, number = line.storage(), itertools.count()
    line.proxy.decide = lambda *_: Breakage.NONE if next(number) % QUICK.attempts == 0 else Breakage.ANSWER_503
    write(storage)
    line.check_read(storage)
    line.check(storage)


def test_a_storm_of_503_that_is_longer_ends_in_a_line_and_loses_nothing(line: Line, thorough: bool) -> None:
    storage = line.storage()
    write(storage)
    requests = line.count()
    for first in range(0, requests, 1 if thorough else 6):
        storage, before = line.storage(), line.count()
        line.breaks_at(first, *[Breakage.ANSWER_503] * 100)
        with pytest.raises(EmbedKDError, match="the server answered 503") as caught:
            write(storage)
        check_message(caught.value)
        assert line.count() - before == first + QUICK.attempts, "it is given up at once, and nothing is tried after it"
        line.proxy.calms()
        write(storage)
        line.check(storage)


def test_readers_give_the_right_rows_or_an_error(line: Line, thorough: bool) -> None:
    """No reader takes half an answer for an answer: the rows are right, the store is whole, or it says what broke."""
    storage = line.storage()
    write(storage)
    hurried = line.storage(IMPATIENT, storage.url.rsplit("/", 1)[1])
    requests = -line.count()
    line.check_read(storage)
    verify(storage)
    requests += line.count()
    failed = 0
    for number in range(0, requests, 1 if thorough else 3):
        for breakage in AT_ONCE if thorough else (AT_ONCE[number // 3 % len(AT_ONCE)],):
            line.breaks_at(number, breakage)
            try:
                line.check_read(hurried)
                verify(hurried)
            except EmbedKDError as error:
                check_message(error)
                failed += 1
    assert failed >= requests // 6
