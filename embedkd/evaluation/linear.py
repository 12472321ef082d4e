"""How well the classes can be told by a linear map of an embedding, fitted to training samples."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from embedkd.errors import TrainingError
from embedkd.evaluation.estimate import Estimate, proportion
from embedkd.heads.linear import L2_GRID
from embedkd.heads.logistic import Rows, cross_entropy, fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]

ITERATIONS = 200


def linear_probe(
    train: "Labelled",
    choose: "Labelled",
    test: "Labelled",
    *,
    classes: int,
    grid: "Sequence[float]" = L2_GRID,
    device: torch.device | str = "cpu",
) -> "Iterator[tuple[str, Estimate]]":
    """Top-1 of multinomial logistic regression on standardised embeddings, see `embedkd.heads.logistic`.

    Source: the linear evaluation of CLIP (A. Radford et al. 2021, appendix A.3): L-BFGS, the penalty chosen on samples
    that are neither fitted nor reported on.

    Args:
        train: Embeddings [M, d], finite, and labels [M], of at least two classes.
        choose: Likewise, at least one: the penalty with the least cross-entropy on them is taken.
        test: Likewise, at least one: what is reported.
        classes: C; one without training sample cannot be hit and counts as a miss.
        grid: Strengths of the penalty to choose from, the first of equal ones.
        device: Where the map is fitted.

    Yields:
        ("linear", share of right answers with its 95 % interval). Chance is 1/C where the classes have equal shares.

    Raises:
        TrainingError: The training samples are of one class.
    """
    if len(np.unique(train[1])) < 2:
        raise TrainingError("expected training samples of at least 2 classes for a linear probe, got 1; leave it out")
    fitted, chosen_on, asked = (_rows(part, classes) for part in (train, choose, test))
    place = torch.device(device)
    maps = [fit(fitted, l2=l2, iterations=ITERATIONS, device=place) for l2 in grid]
    best = min(maps, key=lambda one: cross_entropy(one, chosen_on))
    logits = asked.values.to(place, torch.float64) @ best.weight.T + best.bias
    hits = int((logits.argmax(dim=1).cpu() == asked.labels).sum())
    yield "linear", proportion(hits, len(asked.labels))


def _rows(part: "Labelled", classes: int) -> Rows:
    return Rows(torch.from_numpy(part[0]), torch.from_numpy(part[1]), classes)
