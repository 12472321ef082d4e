"""Memory of large tensors on CPUs: kept between forward passes and not given back to the system each time."""

import ctypes
import os

# Parameters of glibc's mallopt(3), from <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_INT = 2**31 - 1


def tune_allocator() -> bool:
    """Let glibc keep the memory of activations; call it once in a process that runs a model on the CPU.

    By default glibc maps every large tensor anew and gives it back at once, so a teacher's forward pass spends up to
    half of its time in page faults (measured: 590,000 in one batch of 32 images of 224 px). Kept memory is reused
    instead, and the process holds its peak until it ends. Numbers do not change.

    Returns:
        Whether the allocator took both settings; False on systems without glibc, where nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, _LARGEST_INT))
    taken = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(taken)
