"""Options and selection for the whole suite."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# As the command line does; before anything imports torch.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
pytest.register_assert_rewrite("tests.contracts", "tests.faults.storms")
# Timing decides no test, and examples are derived from the test alone, so that a red run can be repeated.
settings.register_profile("embedkd", deadline=None, derandomize=True)
settings.load_profile("embedkd")
_HERE = Path(__file__).parent
# They do the same things thousands of times, which takes twice as long where each line is recorded; what they call has
# tests of its own that measure what is covered.
_REPETITIVE = (_HERE / "faults", _HERE / "strangers" / "test_fuzz.py")
# Of tens of seconds each: nobody should find the last of them when everything else is done. One process has most of
# them, and so starts their servers once.
_LONG = _HERE / "faults"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--storm", action="store_true", help="also run the long fault storms (minutes)")
    parser.addoption("--storm-seed", type=int, default=0, help="seed of all random faults (0 by default)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = set()
    if not config.getoption("--storm"):
        unwanted.add("storm")
    if any(item.get_closest_marker("gpu") for item in items) and not _has_gpu():
        unwanted.add("gpu")
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in unwanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: not item.path.is_relative_to(_LONG))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Pause coverage; in workers of xdist the marker ``no_cover`` pauses only one of the two tracers that run there."""
    if not any(item.path.is_relative_to(place) for place in _REPETITIVE):
        return (yield)
    here, in_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(here)
        threading.settrace(in_threads)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
