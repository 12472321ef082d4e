import pytest
import torch

from embedkd.errors import TeacherError, UnknownNameError
from embedkd.teachers.runner import choose_device, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_precision_is_what_the_hardware_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", CPU) == "float32"
    for supported, chosen in ((True, "bfloat16"), (False, "float16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, _s=supported: _s)
        assert choose_precision("auto", CUDA) == chosen


def test_a_precision_can_be_chosen_where_it_runs() -> None:
    assert choose_precision("bfloat16", CPU) == "bfloat16"
    assert choose_precision("float16", CUDA) == "float16"
    with pytest.raises(TeacherError, match="float16 is no precision for a CPU"):
        choose_precision("float16", CPU)
    with pytest.raises(UnknownNameError, match="unknown precision 'float23'; did you mean float32"):
        choose_precision("float23", CPU)


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(TeacherError, match="'warp' names no device"):
        choose_device("warp")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("cuda") == CUDA
    with pytest.raises(TeacherError, match="no CUDA device 'cuda:1' here, 1 found"):
        choose_device("cuda:1")
