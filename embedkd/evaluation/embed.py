"""What a student says about samples, as arrays: all that an evaluator gets to see."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedkd.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from embedkd.join import Batch
    from embedkd.students import Student


@dataclass(frozen=True)
class Collected:
    """A student's answers about N samples, in the order they came.

    Attributes:
        embeddings: float32 [N, d], finite, not normalised.
        logits: float32 [N, C], finite.
        labels: int64 [N], -1 without a label.
        keys: Key of each sample.
        targets: Name of each target that came with the samples to float32 [N, D].
    """

    embeddings: "NDArray[np.float32]"
    logits: "NDArray[np.float32]"
    labels: "NDArray[np.int64]"
    keys: tuple[str, ...]
    targets: "Mapping[str, NDArray[np.float32]]" = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def labelled(self) -> "Collected":
        """The samples that have a label.

        Raises:
            TrainingError: None has, or one has a label that is no column of the logits.
        """
        kept = np.flatnonzero(self.labels >= 0)
        if not len(kept):
            raise TrainingError("expected labelled samples to evaluate, the shards hold none; name others with --data")
        highest = int(self.labels.argmax())
        if self.labels[highest] >= self.logits.shape[1]:
            raise TrainingError(
                f"sample {self.keys[highest]} has label {self.labels[highest]}, the student knows "
                f"{self.logits.shape[1]} classes, from 0; evaluate it on shards of its own classes"
            )
        keys = tuple(self.keys[i] for i in kept)
        targets = {name: rows[kept] for name, rows in self.targets.items()}
        return Collected(self.embeddings[kept], self.logits[kept], self.labels[kept], keys, targets)


def collect(student: "Student", batches: "Iterable[Batch]", device: str | torch.device = "cpu") -> Collected:
    """Run a student over batches in evaluation mode, without gradients; padding is dropped.

    Args:
        student: Is moved to ``device`` and left in the mode it came in.
        batches: At least one sample; their targets are collected beside the answers.
        device: Where the student runs; the answers come back to the CPU.

    Raises:
        TrainingError: There was no sample, or the student's answers are not finite.
    """
    was_training = student.training
    student.to(device).eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    keys: list[str] = []
    names: tuple[str, ...] = ()
    try:
        with torch.inference_mode():
            for batch in batches:
                answer = student(batch.pixels.to(device, non_blocking=True))
                said = (answer.embedding.float().cpu(), answer.logits.float().cpu())
                columns = (*said, batch.labels, *(rows.float() for rows in batch.targets.values()))
                names = tuple(batch.targets)
                parts.append(tuple(column[batch.valid] for column in columns))
                keys += [key for key, valid in zip(batch.keys, batch.valid.tolist(), strict=True) if valid]
    finally:
        student.train(was_training)
    if not keys:
        raise TrainingError("expected samples to evaluate, the shards hold none; name others with --data")
    embeddings, logits, labels, *targets = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    found = Collected(embeddings, logits, labels, tuple(keys), dict(zip(names, targets, strict=True)))
    _check_finite(found)
    return found


def _check_finite(found: Collected) -> None:
    finite = np.isfinite(found.embeddings).all(axis=1) & np.isfinite(found.logits).all(axis=1)
    if not finite.all():
        raise TrainingError(
            f"the student's answers to {int((~finite).sum())} of {len(found)} samples are not finite (first: "
            f"{found.keys[int(finite.argmin())]}); its weights have diverged, train again with a lower optimiser.lr"
        )
