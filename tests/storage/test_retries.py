"""How often, and how long."""

import random
import time

import pytest

from embedkd.storage.retries import Limits, Patience


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def test_the_number_of_attempts_is_bounded(slept: list[float]) -> None:
    patience = Patience(Limits(attempts=5))
    assert [patience.again() for _ in range(5)] == [True] * 4 + [False]
    assert len(slept) == 4


def test_waits_double_up_to_a_limit_and_are_drawn(slept: list[float]) -> None:
    limits = Limits(attempts=2000, first_delay_s=1, longest_delay_s=8, total_s=1e9)
    for _ in range(300):
        patience = Patience(limits)
        for _ in range(6):
            patience.again()
    for turn, most in enumerate([1, 2, 4, 8, 8, 8]):
        waits = slept[turn::6]
        assert 0.8 * most < max(waits) <= most
        assert min(waits) < 0.2 * most
        assert len(set(waits)) > 290


def test_waiting_moves_no_seeded_generator(slept: list[float]) -> None:
    random.seed(3)
    before = random.getstate()
    Patience(Limits()).again()
    assert random.getstate() == before
    assert len(slept) == 1


def test_the_time_is_bounded(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    patience = Patience(Limits(attempts=99, first_delay_s=0.001, total_s=10))
    assert patience.again()
    now = 110.5
    assert not patience.again()
    patience.renew()
    assert patience.again()


def test_many_failures_overflow_nothing(slept: list[float]) -> None:
    patience = Patience(Limits(attempts=10_000, total_s=1e9))
    assert all(patience.again() for _ in range(5_000))
    assert max(slept) <= Limits().longest_delay_s
