"""Peak memory of a stretch of work, beside what was in use when it began."""

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)


@dataclass(frozen=True)
class Memory:
    """What a stretch of work took.

    Attributes:
        kind: "cuda" for torch's allocations on the device, "rss" for pages of this process on the host.
        start_bytes: In use when it began; the imports of torch and timm are most of it on the host.
        peak_bytes: Most in use at any moment of it.
    """

    kind: str
    start_bytes: int
    peak_bytes: int

    @property
    def net_bytes(self) -> int:
        """What the work added at its peak."""
        return self.peak_bytes - self.start_bytes


class PeakMemory:
    """Measures from its creation on.

    Args:
        device: Where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # begins CUDA; before it there is no allocator whose peak could be reset
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _reset_peak_rss()
        self._start_bytes = self._peak()

    def read(self) -> Memory:
        """Start and peak so far."""
        kind = "cuda" if self._device.type == "cuda" else "rss"
        return Memory(kind, self._start_bytes, self._peak())

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _reset_peak_rss() -> None:
    """Let the peak start at what is in use now, so that a second run in one process is not hidden by the first.

    Only Linux can; elsewhere the peak since the process began stands, and a later run may show no rise.
    """
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return
