"""What a pass runs on. Torch is imported when it is asked, so that a finished store is answered without it."""

import platform
from contextlib import suppress
from pathlib import Path

from embedkd.rundir import usable_cpus


def resolve_device(name: str) -> str:
    """The device of that name; "auto" is the CUDA device where there is one, else the CPU."""
    import torch

    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def device_model(device: str) -> str:
    """The model of the GPU or CPU, as it is recorded with a pass."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def use_threads(threads: int) -> None:
    """Let the teacher compute in so many threads."""
    import torch

    torch.set_num_threads(threads)


def resolve_workers(workers: int | None, device: str) -> int:
    """Decode workers: as many as asked for; where nobody asks, what the hardware needs.

    A CPU teacher shares its processors with decoding, and threads, which start at once, keep up with it. A GPU can be
    faster than the interpreter's lock lets threads decode: there each processor but one, which drives the GPU, gets a
    process.
    """
    if workers is not None:
        return workers
    cpus = usable_cpus()
    return cpus - 1 if device.startswith("cuda") and cpus > 2 else 0
