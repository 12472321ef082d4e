"""Ctrl-C as a terminal sends it: to every process of the command at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize("after_s", [0.0, 4.0])
def test_one_line_and_nothing_left_behind(tmp_path: Path, after_s: float) -> None:
    """While the teacher loads; and while worker processes start, or later: the same holds whenever it comes."""
    command = [sys.executable, "-m", "embedkd", "precompute", "--out", str(tmp_path / "s.zarr")]
    with subprocess.Popen(
        [*command, "--set", "precompute.decode_workers=1"], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        before = list(iter(process.stderr.readline, "loading packaged:efficientnet-lite0\n"))
        time.sleep(after_s)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()  # ends when the last process that inherited it has ended
        process.wait(timeout=60)
    assert process.returncode == 1, rest
    assert rest.strip().splitlines()[-1].startswith("stopped"), rest
    assert "Traceback" not in rest
    assert all(line.startswith("note:") for line in before)
