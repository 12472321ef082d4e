"""Options and selection for the whole suite."""

import os

import pytest
from hypothesis import settings

# As the command line does; before anything imports torch.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
pytest.register_assert_rewrite("tests.contracts", "tests.faults.storms")
# Timing decides no test, and examples are derived from the test alone, so that a red run can be repeated.
settings.register_profile("embedkd", deadline=None, derandomize=True)
settings.load_profile("embedkd")


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


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
