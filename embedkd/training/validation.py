"""How good a student is while it learns: right answers on a held-out split."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedkd.errors import TrainingError
from embedkd.training.distributed import ALONE, Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from embedkd.join import Batch
    from embedkd.students import Student


@dataclass(frozen=True)
class Accuracy:
    """Right answers of so many labelled samples."""

    hits: int
    rows: int

    @property
    def top1(self) -> float:
        """Their share."""
        return self.hits / self.rows


def accuracy(
    student: "Student",
    batches: "Iterable[Batch]",
    device: torch.device,
    stop: "Callable[[], bool] | None" = None,
    ranks: Ranks = ALONE,
) -> Accuracy | None:
    """Count a student's right answers in float32, as ``embedkd evaluate`` does; None if told to stop before the end.

    Args:
        student: In any mode, which it keeps.
        batches: This rank's part of a split.
        device: Where the student lies.
        stop: Asked before each batch; says the same on all ranks.
        ranks: Whose right answers are added up.

    Raises:
        TrainingError: No sample has a label.
    """
    was_training = student.training
    student.eval()
    hits = rows = 0
    try:
        with torch.inference_mode():
            for batch in batches:
                if stop is not None and stop():
                    return None
                counted = batch.valid & (batch.labels >= 0)
                answers = student(batch.pixels.to(device, non_blocking=True)).logits.argmax(1).cpu()
                hits += int((answers == batch.labels)[counted].sum())
                rows += int(counted.sum())
    finally:
        student.train(was_training)
    hits, rows = ranks.total(torch.tensor([hits, rows])).tolist()
    if not rows:
        raise TrainingError("expected labelled samples to validate on, the split has none")
    return Accuracy(hits, rows)
