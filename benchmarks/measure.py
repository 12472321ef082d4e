"""What every benchmark here shares: the machine's name, rounds that interleave what is compared, and the output."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any


def machine() -> str:
    """CPU model and count, for the line under every figure."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {metadata.version('torch')}"


def interleaved(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every measure once a round, in turn, so that a drift of the machine hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def summary(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def paired(theirs: list[float], ours: list[float]) -> float:
    """How many times faster ours is: the median of the ratios of one round each."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def finish(name: str, facts: dict[str, Any], out: Path | None) -> None:
    """Write JSON where asked, and name the machine."""
    print(f"\n{machine()}")
    if out is not None:
        out.write_text(json.dumps({"benchmark": name, "machine": machine(), "command": sys.argv, **facts}, indent=2))
        print(f"written to {out}")
