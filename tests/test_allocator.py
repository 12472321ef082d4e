import ctypes
from types import SimpleNamespace

import pytest

from embedkd.allocator import tune_allocator


@pytest.mark.parametrize(("accepts", "tuned"), [(1, True), (0, False)])
def test_the_allocator_gets_both_settings(monkeypatch: pytest.MonkeyPatch, *, accepts: int, tuned: bool) -> None:
    calls = []

    def mallopt(parameter: int, value: int) -> int:
        calls.append((parameter, value))
        return accepts

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    assert tune_allocator() is tuned
    assert calls == [(-3, 1 << 30), (-1, 2**31 - 1)]


def test_a_libc_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not tune_allocator()
