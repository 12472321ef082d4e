"""Whether a student is right as often as it says: calibration errors, proper scores, and the temperature that helps.

All of it is about probabilities, the softmax of logits; the confidence is that of the class with the greatest one.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from embedkd.evaluation.bootstrap import REPLICATES, Statistic, bootstrap, weighted_mean
from embedkd.evaluation.estimate import Estimate
from embedkd.evaluation.top1 import label_ranks
from embedkd.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BINS: Final = 15
"""Bins of the confidence, as Guo et al. 2017 take them."""


@dataclass(frozen=True)
class Bin:
    """Samples of about the same confidence.

    Attributes:
        low: The least confidence of the bin, itself not in it (in the first one it is).
        high: The greatest, which is in it.
        rows: How many samples.
        hits: Of these, how many the student was right about.
        confidence: Their mean confidence.
    """

    low: float
    high: float
    rows: int
    hits: int
    confidence: float


@dataclass(frozen=True)
class Answers:
    """What N samples' probabilities come to.

    Attributes:
        confidence: float64 [N], the greatest probability.
        hits: float64 [N], 1 where it is the label's.
        nll: float64 [N], minus the log of the label's probability.
        brier: float64 [N], squared distance of the probabilities from certainty of the label, from 0 to 2.
    """

    confidence: "NDArray[np.float64]"
    hits: "NDArray[np.float64]"
    nll: "NDArray[np.float64]"
    brier: "NDArray[np.float64]"

    @classmethod
    def of(cls, logits: "NDArray[np.float32]", labels: "NDArray[np.int64]", temperature: float = 1.0) -> "Answers":
        """Of logits [N, C] divided by a temperature, with labels [N] from 0 to C - 1.

        Raises:
            ValueError: Shapes that do not belong together, a label that is no column, or a temperature of 0 or less.
        """
        if not temperature > 0:
            raise ValueError(f"expected a temperature above 0, got {temperature}")
        hits = label_ranks(logits, labels) == 0
        scaled = logits.astype(np.float64) / temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        sums = np.exp(scaled).sum(axis=1)
        own = scaled[np.arange(len(labels)), labels] - np.log(sums)
        squares = (np.exp(scaled) ** 2).sum(axis=1) / sums**2
        return cls(1 / sums, hits.astype(np.float64), -own, np.maximum(squares - 2 * np.exp(own) + 1, 0.0))


def calibration(
    logits: "NDArray[np.float32]",
    labels: "NDArray[np.int64]",
    *,
    temperature: float | None = None,
    bins: int = BINS,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> "Iterator[tuple[str, Estimate]]":
    """Calibration as the student is and, with a temperature fitted elsewhere, once its logits are divided by it.

    Args:
        logits: [N, C], finite; N at least 1.
        labels: [N], from 0 to C - 1.
        temperature: Fitted on other samples; None measures nothing after scaling.
        bins: Of the confidence.
        seed: Of the bootstrap.
        replicates: Of the bootstrap.

    Yields:
        "nll": mean negative log-likelihood in nats; log C for uniform probabilities, scikit-learn's ``log_loss``.
        "brier": mean squared distance from certainty of the label (G. W. Brier 1950), 0 to 2; 1 - 1/C when uniform.
        "ece": expected calibration error over bins of equal width (M. P. Naeini et al. 2015; C. Guo et al. 2017):
        mean over samples of the distance between accuracy and mean confidence of their bin.
        "ece_mass": likewise over bins that hold about as many samples each.
        "ece_floor": what "ece" would be for a student of these confidences that is right exactly as often as it says:
        noise makes every finite sample look off; low and high hold 95 % of such students.
        "overconfidence": mean confidence less accuracy; below 0 the student is too modest.
        "auroc": chance that a right answer has more confidence than a wrong one, 0.5 where it says nothing; left out
        where all are right or all wrong.
        "temperature", "nll_scaled", "brier_scaled", "ece_scaled": with a temperature, that and the same after it.

    Raises:
        ValueError: Shapes that do not belong together, or a label that is no column.
    """
    plain = Answers.of(logits, labels)
    statistics = {
        **_scores(plain, bins, ""),
        "ece_mass": _error(plain, equal_mass_edges(plain.confidence, bins)),
        "overconfidence": weighted_mean(plain.confidence - plain.hits, low=-1, high=1),
        "auroc": _separation(plain),
    }
    if temperature is not None:
        statistics |= _scores(Answers.of(logits, labels, temperature), bins, "_scaled")
    found = dict(bootstrap(statistics, len(labels), seed=seed, replicates=replicates))
    found["ece_floor"] = _floor(plain.confidence, bins, seed, replicates)
    if temperature is not None:
        found["temperature"] = Estimate(temperature)
    order = ("nll", "brier", "ece", "ece_floor", "ece_mass", "overconfidence", "auroc", "temperature")
    scaled = tuple(name for name in found if name.endswith("_scaled"))
    yield from ((name, found[name]) for name in (*order, *scaled) if name in found)


def reliability(answers: Answers, bins: int = BINS) -> tuple[Bin, ...]:
    """Accuracy against confidence in bins of equal width, empty ones left out: what a reliability diagram draws.

    Source: M. H. DeGroot and S. E. Fienberg, The comparison and evaluation of forecasters, 1983.
    """
    edges = equal_width_edges(bins)
    at = _places(answers.confidence, edges)
    rows, hits = np.bincount(at, minlength=bins), np.bincount(at, answers.hits, bins)
    sums = np.bincount(at, answers.confidence, bins)
    return tuple(
        Bin(float(edges[i]), float(edges[i + 1]), int(rows[i]), round(hits[i]), float(sums[i] / rows[i]))
        for i in np.flatnonzero(rows)
    )


def fit_temperature(logits: "NDArray[np.float32]", labels: "NDArray[np.int64]") -> float:
    """The temperature with the least NLL, from 0.01 to 100 (C. Guo et al. 2017); fit it on what is not reported on."""
    import torch

    from embedkd.losses import fitted_temperature

    return fitted_temperature(torch.from_numpy(logits), torch.from_numpy(labels))


def equal_width_edges(bins: int) -> "NDArray[np.float64]":
    """Edges [bins + 1] from 0 to 1.

    Raises:
        ValueError: There is no bin.
    """
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, got {bins}")
    return np.linspace(0.0, 1.0, bins + 1)


def equal_mass_edges(confidence: "NDArray[np.float64]", bins: int) -> "NDArray[np.float64]":
    """Edges [bins + 1] at quantiles of the confidence, so that ties stay together; some bins may then be empty."""
    edges: NDArray[np.float64] = np.quantile(confidence, equal_width_edges(bins))
    return edges


def _scores(answers: Answers, bins: int, suffix: str) -> dict[str, Statistic]:
    return {
        f"nll{suffix}": weighted_mean(answers.nll, low=0),
        f"brier{suffix}": weighted_mean(answers.brier, low=0, high=2),
        f"ece{suffix}": _error(answers, equal_width_edges(bins)),
    }


def _places(confidence: "NDArray[np.float64]", edges: "NDArray[np.float64]") -> "NDArray[np.int64]":
    return np.searchsorted(edges[1:-1], confidence).astype(np.int64)


def _error(answers: Answers, edges: "NDArray[np.float64]") -> Statistic:
    """ECE over fixed bins: the sum over bins of |hits - confidence|, over all samples."""
    return Statistic(partial(_gap, _places(answers.confidence, edges), answers.hits - answers.confidence), 0, 1)


def _gap(at: "NDArray[np.int64]", gaps: "NDArray[np.float64]", weights: "NDArray[np.float64]") -> float:
    return float(np.abs(np.bincount(at, weights * gaps)).sum() / weights.sum())


def _floor(confidence: "NDArray[np.float64]", bins: int, seed: int, replicates: int) -> Estimate:
    draw, once = generator(seed, "calibrated", len(confidence)), np.ones(len(confidence))
    at = _places(confidence, equal_width_edges(bins))
    errors = [_gap(at, (draw.random(len(confidence)) < confidence) - confidence, once) for _ in range(replicates)]
    low, high = np.percentile(errors, (2.5, 97.5))
    return Estimate(float(np.mean(errors)), float(low), float(high))


def _separation(answers: Answers) -> Statistic:
    """Area under the ROC curve of the confidence: of right and wrong pairs the share in order, ties count half."""
    _, places = np.unique(answers.confidence, return_inverse=True)

    def area(weights: "NDArray[np.float64]") -> float:
        right = np.bincount(places, weights * answers.hits)
        wrong = np.bincount(places, weights * (1 - answers.hits))
        pairs = right.sum() * wrong.sum()
        return float(right @ (np.cumsum(wrong) - wrong / 2) / pairs) if pairs else math.nan

    return Statistic(area, 0, 1)
