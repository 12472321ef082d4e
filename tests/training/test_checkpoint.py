import io
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from embedkd.errors import CheckpointError, StorageError
from embedkd.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from embedkd.training.memory import Memory
from embedkd.training.state import Position

CHECKPOINT = Checkpoint(
    position=Position(5, 2, 0.25, 1, 3.5, Memory("rss", 10, 30)),
    data={"training split": "abc"},
    metrics_bytes=123,
    student={"w": torch.tensor([0.1, -0.0, torch.finfo(torch.float32).tiny])},
    objective={},
    optimiser={"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoint.pt"
    write_checkpoint(made, CHECKPOINT)
    return made


def test_it_comes_back_bit_by_bit(path: Path) -> None:
    found = read_checkpoint(path)
    assert replace(found, student={}, optimiser={}) == replace(CHECKPOINT, student={}, optimiser={})
    assert found.student["w"].view(torch.int32).tolist() == CHECKPOINT.student["w"].view(torch.int32).tolist()
    assert found.average is None
    assert found.optimiser["param_groups"] == CHECKPOINT.optimiser["param_groups"]
    assert torch.equal(found.optimiser["state"][0]["step"], torch.tensor(5.0))


def test_a_position_before_the_first_validation_comes_back(path: Path) -> None:
    write_checkpoint(path, replace(CHECKPOINT, position=Position()))
    assert read_checkpoint(path).position == Position()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_a_cut_checkpoint_is_refused(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "document", [{}, {"format": 2}, [], {"format": 2, "position": {"memory": None, "steps": 3}}, 3, "text"]
)
def test_what_is_no_checkpoint_is_refused(path: Path, document: object) -> None:
    torch.save(document, path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(path)


@pytest.mark.parametrize("number", [1, 9])
def test_another_format_is_named(path: Path, number: int) -> None:
    torch.save({"format": number}, path)
    with pytest.raises(CheckpointError, match=f"is of format {number}, this version reads 2; finish the run with"):
        read_checkpoint(path)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(
    path: Path, writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if writer == "torch":
        buffer = io.BytesIO()
        torch.save({"format": 1, "position": Trap()}, buffer)
        path.write_bytes(buffer.getvalue())
    else:
        path.write_bytes(pickle.dumps({"format": 1, "position": Trap()}, protocol=2))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(path)
    assert not Path("sprung").exists()


def test_a_full_disk_leaves_the_last_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr("embedkd.training.checkpoint.write_atomic", full)
    with pytest.raises(StorageError):
        write_checkpoint(path, replace(CHECKPOINT, metrics_bytes=999))
    assert read_checkpoint(path).metrics_bytes == 123
