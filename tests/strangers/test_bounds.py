"""Stores that would take all memory or never end: refused in one line, within bounds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.strangers.bounded import CASES, MORE_BYTES
from tests.strangers.forge import Files, write_folder

Outcomes = dict[str, dict[str, Any]]
# Each takes a gibibyte and some seconds of a processor; the others show the same rules.
HEAVY = ("most_values", "longest_text", "other_encoding")


@pytest.fixture(scope="module")
def outcomes(sound: Files, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Outcomes:
    """One process imports everything once and makes each attack in a fork of its own."""
    folder = write_folder(sound, tmp_path_factory.mktemp("bounds") / "store.zarr")
    root = Path(__file__).parents[2]
    wanted = [case for case in CASES if case not in HEAVY or pytestconfig.getoption("--storm")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.strangers.bounded", str(folder), *wanted],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: Outcomes = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.storm] * (case in HEAVY)) for case in CASES])
def test_refused_within_bounds_of_memory_and_time(outcomes: Outcomes, case: str) -> None:
    found = outcomes[case]
    assert found["outcome"] == "refused", found
    assert found["message"].isprintable()
    assert len(found["message"]) < 5000
    assert found["grown_mb"] <= MORE_BYTES >> 20
