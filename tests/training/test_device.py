import pytest
import torch

from embedkd.errors import TrainingError, UnknownNameError
from embedkd.training.device import autocast, resolve_device, resolve_precision, resolve_workers
from embedkd.training.distributed import Ranks

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == CUDA


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(TrainingError, match="expected cuda:1, this machine has 1 CUDA devices"):
        resolve_device("cuda:1")


def test_processes_of_one_machine_take_a_device_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    second, third = Ranks(5, 8, 1, 4), Ranks(6, 8, 2, 4)
    assert [resolve_device(name, second) for name in ("auto", "cuda", "cpu")] == [torch.device("cuda:1")] * 2 + [CPU]
    with pytest.raises(TrainingError, match="expected cuda:2, this machine has 2 CUDA devices"):
        resolve_device("auto", third)
    with pytest.raises(TrainingError, match="each of 4 processes takes its own, got cuda:0"):
        resolve_device("cuda:0", second)
    assert resolve_device("auto", Ranks(5, 8, 0, 1)) == CUDA


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown device 'cdua'; did you mean cuda"):
        resolve_device("cdua")


@pytest.mark.parametrize(
    ("asked", "device", "hardware", "expected"),
    [
        ("auto", CPU, False, "float32"),
        ("auto", CUDA, True, "bfloat16"),
        ("auto", CUDA, False, "float32"),
        ("float32", CUDA, True, "float32"),
        ("bfloat16", CUDA, True, "bfloat16"),
        ("bfloat16", CPU, False, "bfloat16"),
    ],
)
def test_precision_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, asked: str, device: torch.device, hardware: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: hardware)
    assert resolve_precision(asked, device) == expected


def test_emulated_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(TrainingError, match=r"Old GPU does not compute in bfloat16; use train.precision=float32"):
        resolve_precision("bfloat16", CUDA)


def test_autocast_changes_the_forward_pass_alone() -> None:
    layer, rows = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with autocast(CPU, "bfloat16"):
        assert layer(rows).dtype == torch.bfloat16
    with autocast(CPU, "float32"):
        assert layer(rows).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("asked", "device", "cpus", "expected"),
    [(3, CPU, 2, 3), (0, CUDA, 64, 0), (None, CPU, 2, 0), (None, CPU, 8, 4), (None, CUDA, 2, 1), (None, CUDA, 64, 8)],
)
def test_workers_fit_the_machine(asked: int | None, device: torch.device, cpus: int, expected: int) -> None:
    assert resolve_workers(asked, device, cpus) == expected
