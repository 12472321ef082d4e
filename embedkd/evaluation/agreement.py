"""How often the student gives the teacher's answer, right or wrong."""

from typing import TYPE_CHECKING

from embedkd.evaluation.estimate import Estimate, proportion
from embedkd.evaluation.top1 import label_ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray


def answer_agreement(
    logits: "NDArray[np.float32]", teacher_logits: "NDArray[np.float32]", labels: "NDArray[np.int64]"
) -> "Iterator[tuple[str, Estimate]]":
    """Share of samples to which student and teacher give the same answer, and of which the teacher is right.

    Source: the top-1 agreement of S. Stanton et al. 2021, "Does Knowledge Distillation Really Work?".

    Args:
        logits: [N, C], the student's; N at least 1.
        teacher_logits: [N, C], of the same samples and classes.
        labels: [N], from 0 to C - 1.

    Yields:
        "agreement": share of the same top-1 answer. Two that answer by chance agree in 1/C; a student that knows
        nothing of the teacher but the labels agrees where both are right, and a little more.
        "teacher_top1": the teacher's own share of right answers.

    Raises:
        ValueError: Shapes that do not belong together, or a label that is no column.
    """
    if logits.shape != teacher_logits.shape:
        raise ValueError(f"expected logits [N, C] of both, got {logits.shape} and {teacher_logits.shape}")
    teacher = label_ranks(teacher_logits, labels) == 0
    same = logits.argmax(axis=1) == teacher_logits.argmax(axis=1)
    yield "agreement", proportion(int(same.sum()), len(labels))
    yield "teacher_top1", proportion(int(teacher.sum()), len(labels))
