import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from embedkd.config import Config, StudentConfig, TrainConfig
from embedkd.evaluation import Details, Estimate, Evaluation, proportion, write_evaluation
from embedkd.evaluation.calibration import Bin
from embedkd.evaluation.classes import ClassCounts, Confusions
from embedkd.rundir import MetricsLog, RunDir, write_json
from embedkd.students import StudentOptions
from embedkd.training import StudentCard, TrainResult

STEPS_PER_EPOCH = 5
TEST_ROWS = 200
LOSSES = {"cross_entropy": 0.5, "class_contrastive": 0.5}


def write_metrics(run: RunDir, losses: dict[str, float], epochs: int, strength: float, *, validate: bool) -> None:
    with MetricsLog(run.metrics) as log:
        for step in range(1, epochs * STEPS_PER_EPOCH + 1):
            epoch = (step - 1) // STEPS_PER_EPOCH + 1
            terms = {name: 3.5 * math.exp(-step * strength / 100) + 0.1 * i for i, name in enumerate(losses)}
            log.append(
                {
                    "kind": "train",
                    "step": step,
                    "epoch": epoch,
                    "loss": sum(losses[name] * value for name, value in terms.items()),
                    "terms": terms,
                    "grad_norm": 1.0,
                    "lr": 1e-3 * (1 + math.cos(math.pi * step / (30 * STEPS_PER_EPOCH))) / 2,
                    "elapsed_s": step / 10,
                }
            )
            if validate and step % STEPS_PER_EPOCH == 0:
                top1 = 0.5 * strength * (1 - math.exp(-epoch / 6)) + 0.01 * (epoch % 3)
                log.append(
                    {
                        "kind": "validation",
                        "step": step,
                        "epoch": epoch,
                        "top1": top1,
                        "rows": TEST_ROWS,
                        "best": True,
                        "elapsed_s": step / 10,
                    }
                )


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder by the trainer's own writers; every part of it can be left out or changed."""

    def make(
        name: str = "run",
        *,
        losses: dict[str, float] | None = None,
        epochs: int = 3,
        strength: float = 1.0,
        hits: int = 90,
        finished: bool = True,
        evaluated: bool = True,
        validated: bool = True,
        train: dict[str, Any] | None = None,
        student: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
        evaluation: dict[str, Any] | None = None,
    ) -> Path:
        run, weights = RunDir(tmp_path / name), dict(losses or LOSSES)
        run.path.mkdir(parents=True)
        settings = TrainConfig(**{"targets": "store.zarr", "out": name, "epochs": 30, **(train or {})})
        run.claim(Config(train=settings, losses=weights, student=StudentConfig(**(student or {}))))
        write_metrics(run, weights, epochs, strength, validate=validated)
        if not epochs:
            return run.path
        mean = (0.5, 0.5, 0.5)
        card = StudentCard(
            "vit-tiny", StudentOptions(), 33, 32, mean, mean, None, 825_000, epochs, 0.4, f"weights of {name}"
        )
        write_json(run.student, {"format": 1, **asdict(card)})
        if finished:
            write_json(run.result, {**asdict(RESULT), "losses": weights, "epochs": epochs, **(result or {})})
        if evaluated:
            metrics = {"top1": proportion(hits, 200), "top5": proportion(150, 200), "knn": proportion(80, 200)}
            found = Evaluation(card.weights_blake2b, "store.zarr", "test", TEST_ROWS, 1100, {}, "cpu", metrics)
            write_evaluation(run, replace(found, **(evaluation or {})))
        return run.path

    return make


MEASURED: dict[str, Any] = {
    "metrics": {
        "top1": proportion(90, TEST_ROWS),
        "ece": Estimate(0.0512, 0.03, 0.07),
        "nll": Estimate(2.345, 2.1, 2.6),
        "temperature": Estimate(1.4),
        "cka@vit-l-32": Estimate(0.612),
        "newer": Estimate(7.0),
    },
    "notes": ("no temperature <was> fitted",),
    "details": Details(
        reliability=(Bin(0.2, 0.4, 150, 60, 0.3), Bin(0.8, 1.0, 50, 30, 0.9)),
        scaled_reliability=(Bin(0.2, 0.4, 200, 90, 0.35),),
        classes=ClassCounts((100, 0, 100), (30, 0, 60), (70, 10, 120)),
        confusions=Confusions(((0, 2, 60), (2, 0, 40), (0, 1, 10)), 0),
    ),
}
"""What an evaluation with everything in it has beside `make_run`'s."""

RESULT = TrainResult(
    student="vit-tiny",
    parameters=825_000,
    losses=LOSSES,
    teacher="packaged:efficientnet-lite0",
    view_mismatch=[],
    left_out={},
    epochs=3,
    steps=3 * STEPS_PER_EPOCH,
    train_rows=1100,
    best_epoch=2,
    val_top1=0.4,
    test_top1=0.45,
    test_rows=TEST_ROWS,
    elapsed_s=23.5,
    memory={"kind": "rss", "start_bytes": 700 << 20, "peak_bytes": 1000 << 20, "net_bytes": 300 << 20},
    device="cpu",
    precision="float32",
    workers=0,
)
