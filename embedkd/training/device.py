"""Which device and which precision, by what the hardware has."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from embedkd.errors import TrainingError, UnknownNameError
from embedkd.training.distributed import ALONE, Ranks

Precision = Literal["float32", "bfloat16"]


def resolve_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device of that name; "auto" is the CUDA device where there is one, else the CPU.

    Where several processes share a machine, "auto" and "cuda" give each a CUDA device of its own.

    Raises:
        UnknownNameError: It is no device.
        TrainingError: This machine has no such device, or too few of them.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if ranks.local_size == 1:
            return torch.device(name)
    if name.startswith("cuda") and ranks.local_size > 1:
        if name != "cuda":
            raise TrainingError(
                f"expected train.device cuda, from which each of {ranks.local_size} processes takes its own, got {name}"
            )
        name = f"cuda:{ranks.local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnknownNameError("device", name, ["auto", "cpu", "cuda", "cuda:0"]) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainingError(
            f"expected {name}, this machine has {torch.cuda.device_count()} CUDA devices; use --set train.device=cpu"
        )
    return device


def resolve_precision(name: str, device: torch.device) -> Precision:
    """The precision of the forward pass; "auto" is bfloat16 on CUDA devices that compute in it, else float32.

    Raises:
        TrainingError: bfloat16 was asked of a CUDA device that only emulates it.
    """
    hardware = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return "bfloat16" if hardware else "float32"
    if name == "bfloat16" and device.type == "cuda" and not hardware:
        raise TrainingError(
            f"{torch.cuda.get_device_name(device)} does not compute in bfloat16; use train.precision=float32"
        )
    return "bfloat16" if name == "bfloat16" else "float32"


def device_name(device: torch.device) -> str:
    """The device for people: "cpu", or "cuda (NVIDIA ...)"."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """What a forward pass in that precision runs in; parameters and the losses stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def resolve_workers(workers: int | None, device: torch.device, cpus: int) -> int:
    """Loader processes; None takes none on small machines, where they would only take turns with the training."""
    if workers is not None:
        return workers
    return 0 if device.type == "cpu" and cpus <= 2 else min(8, max(1, cpus // 2))
