"""Runs that nobody trained: random weights are as hard to export as learned ones."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from embedkd.config import load_config
from embedkd.rundir import RunDir, write_json
from embedkd.students import StudentOptions
from embedkd.training.saved import begin_student, save_student
from embedkd.training.state import Position

RESULT = {
    "student": "vit-tiny",
    "losses": {"cross_entropy": 0.5, "mse": 0.5},
    "teacher": "packaged:efficientnet-lite0",
    "epochs": 3,
    "best_epoch": 2,
    "train_rows": 22,
    "val_top1": 0.5,
    "test_top1": 0.25,
    "test_rows": 8,
}


def make_run(
    path: Path,
    name: str = "vit-tiny",
    image_px: int = 32,
    *,
    seed: int = 0,
    sets: tuple[str, ...] = (),
    class_names: tuple[str, ...] | None = ("a", "b", "c"),
    **options: Any,
) -> RunDir:
    """A finished run of that student, whose norms have seen a few batches."""
    run = RunDir(path)
    asked = StudentOptions(**options)
    student, card = begin_student(name, asked, num_classes=3, image_px=image_px, class_names=class_names, seed=seed)
    torch.manual_seed(seed)
    for _ in range(3):
        student(1 + 2 * torch.randn(8, 3, image_px, image_px))
    run.claim(load_config(sets=[f"student.name={name}", f"student.image_px={image_px}", *sets]))
    save_student(run, student, card, Position(step=9, best_epoch=2, best_top1=0.5))
    write_json(run.result, RESULT)
    return run


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[..., RunDir]:
    """`make_run`, in a folder of this test."""

    def make(name: str = "vit-tiny", image_px: int = 32, *, folder: str = "run", **options: Any) -> RunDir:
        return make_run(tmp_path / folder, name, image_px, **options)

    return make


@pytest.fixture(autouse=True)
def short_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is no test's business but one's own."""
    monkeypatch.setattr("embedkd.export.latency._RUNS", 2)
    monkeypatch.setattr("embedkd.export.latency._WARMUPS", 0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are not worth a second thread, least of all when tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
