import mmap
from pathlib import Path

import pytest
import torch

from embedkd.training.memory import Memory, PeakMemory

MIB = 1 << 20


def touch(size_bytes: int) -> None:
    """Use so much memory at once and give it back; mapped anew, as an allocator may hold what earlier tests freed."""
    with mmap.mmap(-1, size_bytes) as pages:
        for page in range(0, size_bytes, mmap.PAGESIZE):
            pages[page] = 1


def test_the_peak_is_what_was_in_use_at_once_and_is_remembered() -> None:
    measure = PeakMemory(torch.device("cpu"))
    touch(128 * MIB)
    found = measure.read()
    assert found.kind == "rss"
    assert 120 * MIB < found.net_bytes < 200 * MIB
    assert found.net_bytes == found.peak_bytes - found.start_bytes
    assert measure.read().peak_bytes >= found.peak_bytes


def test_a_second_measure_does_not_see_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    touch(128 * MIB)
    assert PeakMemory(torch.device("cpu")).read().net_bytes < 32 * MIB
    monkeypatch.setattr("embedkd.training.memory._CLEAR_REFS", tmp_path / "no" / "such")
    assert PeakMemory(torch.device("cpu")).read().net_bytes < 32 * MIB, "without the reset it starts at the old peak"


def test_net_is_what_the_work_added() -> None:
    assert Memory("cuda", 10, 25).net_bytes == 15


@pytest.mark.gpu
def test_on_cuda_it_is_what_torch_allocated() -> None:
    device = torch.device("cuda")
    measure = PeakMemory(device)
    torch.ones(64 * MIB, dtype=torch.uint8, device=device)
    found = measure.read()
    assert (found.kind, found.net_bytes) == ("cuda", 64 * MIB)
