"""How long a student takes to answer."""

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

BATCHES: Final = (1, 32)
_WARMUPS: Final = 2
_RUNS: Final = 15
_LONGEST_S: Final = 5.0  # a batch size; large students answer a few times only


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass on the CPU.

    Attributes:
        median_ms: Batch size to the median in milliseconds.
        runs: Batch size to how often it ran.
        threads: Of each run.
    """

    median_ms: "Mapping[int, float]"
    runs: "Mapping[int, int]"
    threads: int

    def __str__(self) -> str:
        """One line for people."""
        times = ", ".join(f"{time_ms:.2f} ms for {size}" for size, time_ms in self.median_ms.items())
        return f"{times} (median of {min(self.runs.values())} runs, {self.threads} threads)"


def measure(answer: "Callable[[Tensor], object]", image_px: int) -> Latency:
    """Time an answer for a single image and for a batch.

    Args:
        answer: Takes pixels, float32 [B, 3, image_px, image_px], on the CPU.
        image_px: Height and width of its input.
    """
    found = {size: _times(answer, torch.randn(size, 3, image_px, image_px)) for size in BATCHES}
    return Latency(
        {size: round(1000 * median(times), 4) for size, times in found.items()},
        {size: len(times) for size, times in found.items()},
        torch.get_num_threads(),
    )


def _times(answer: "Callable[[Tensor], object]", pixels: "Tensor") -> list[float]:
    for _ in range(_WARMUPS):
        answer(pixels)
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < _LONGEST_S:
        began = time.perf_counter()
        answer(pixels)
        times.append(time.perf_counter() - began)
    return times
