"""Classifying by the text that is nearest: a student in a CLIP-like teacher's space needs no trained classifier."""

from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import TrainingError
from embedkd.evaluation.top1 import accuracy
from embedkd.evaluation.unit import unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from embedkd.evaluation.estimate import Estimate


def zero_shot_accuracy(
    embeddings: "NDArray[np.float32]", texts: "NDArray[np.float32]", labels: "NDArray[np.int64]"
) -> "Iterator[tuple[str, Estimate]]":
    """Top-1 and top-5 of the cosines between samples and class texts; a scale or a bias would change neither.

    Source: A. Radford et al. 2021, "Learning Transferable Visual Models From Natural
    Language Supervision", section 3.1.

    Args:
        embeddings: [N, D], finite, in the texts' space; N at least 1.
        texts: [C, D], one row a class.
        labels: [N], from 0 to C - 1.

    Yields:
        ("zero_shot", share with its 95 % interval), and with more than five classes ("zero_shot_top5", likewise).
        Chance is 1/C and 5/C.

    Raises:
        ValueError: Widths differ, or a label is no class.
        TrainingError: A class has no text.
    """
    if embeddings.ndim != 2 or texts.ndim != 2 or embeddings.shape[1] != texts.shape[1]:
        raise ValueError(f"expected embeddings [N, D] and texts [C, D], got {embeddings.shape} and {texts.shape}")
    missing = np.flatnonzero(~np.isfinite(texts).all(axis=1))
    if len(missing):
        raise TrainingError(f"class {missing[0]} has no text; make the class texts again from all class names")
    names = {"top1": "zero_shot", "top5": "zero_shot_top5"}
    for name, found in accuracy(unit_rows(embeddings) @ unit_rows(texts).T, labels):
        yield names[name], found
