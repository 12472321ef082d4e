import os
import signal
import threading

import pytest

from embedkd.training.signals import stop_wish


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_acts_as_before(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    heard: list[int] = []
    signal.signal(number, lambda n, _: heard.append(n))
    try:
        with stop_wish() as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop()
            assert heard == []
            os.kill(os.getpid(), number)
            assert heard == [number]
    finally:
        signal.signal(number, before)


def test_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with stop_wish():
            assert signal.getsignal(signal.SIGINT) is not before[0]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_the_main_thread_there_is_no_wish() -> None:
    answers: list[bool] = []

    def ask() -> None:
        with stop_wish() as stop:
            answers.append(stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [False]
