"""Multinomial logistic regression with an L2 penalty on standardised rows, by L-BFGS.

Minimises mean cross-entropy + l2 / 2 * |W|^2 over W [C, D] and b [C], in float64, beginning at zero. Rows are converted
a block at a time: beside them (as stored, on the device) only a block and a few copies of W are in memory, and 256 MiB
at most of rows that were converted once.
scikit-learn's LogisticRegression finds the same minimum for C = 1 / (n * l2), and wants all rows in float64 at once.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from embedkd.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

# How far the bias of a class without a fitted sample lies below the lowest other one. Weights sum to zero over the
# fitted classes, so some class always has at least the mean bias: the absent one has a probability below e^-30.
ABSENT_BELOW = 30.0
_BLOCK_ROWS = 8_192
_KEPT_BYTES = 1 << 28  # rows that take no more in float64 are converted once, and not again for every step
_HISTORY = 10
_GRADIENT = 1e-7


@dataclass(frozen=True)
class Rows:
    """Rows to fit, in memory.

    Attributes:
        values: [n, D] as stored.
        labels: int64 [n], from 0.
        classes: C, of which some may have no row.
    """

    values: Tensor
    labels: Tensor
    classes: int

    def where(self, chosen: "NDArray[np.bool_]") -> "Rows":
        """Those that are chosen; a copy."""
        mask = torch.from_numpy(chosen)
        return Rows(self.values[mask], self.labels[mask], self.classes)


@dataclass(frozen=True)
class LinearMap:
    """Logits = weight @ row + bias, for rows as they are stored.

    Attributes:
        weight: float64 [C, D].
        bias: float64 [C].
    """

    weight: Tensor
    bias: Tensor


def fit(rows: Rows, *, l2: float, iterations: int, device: torch.device) -> LinearMap:
    """The minimum, with the standardisation folded into it.

    A dimension without spread gets the weight 0, and so does a class without rows, see `ABSENT_BELOW`.

    Args:
        rows: What to fit.
        l2: Strength of the penalty on the weights of standardised rows.
        iterations: Most steps.
        device: Where to compute.

    Raises:
        StoreError: The rows are of fewer than two classes.
    """
    present = torch.unique(rows.labels)
    if len(present) < 2:
        raise StoreError(
            f"expected training rows of at least 2 classes in every part that is fitted, got {len(present)}; "
            "use fewer --folds, or more labelled samples"
        )
    small = rows.values.numel() * torch.float64.itemsize <= _KEPT_BYTES
    rows = Rows(rows.values.to(device, torch.float64 if small else rows.values.dtype), rows.labels, rows.classes)
    mean, scale = _moments(rows, device)
    places = torch.full((rows.classes,), -1)
    places[present] = torch.arange(len(present))
    labels = places[rows.labels]
    weight = torch.zeros(len(present), rows.values.shape[1], dtype=torch.float64, device=device, requires_grad=True)
    bias = torch.zeros(len(present), dtype=torch.float64, device=device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        max_eval=2 * iterations,
        history_size=_HISTORY,
        tolerance_grad=_GRADIENT,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        loss, weight.grad, bias.grad = _loss(rows.values, labels, (mean, scale), weight.detach(), bias.detach())
        weight.grad += l2 * weight.detach()
        return loss + 0.5 * l2 * (weight.detach() ** 2).sum()

    solver.step(closure)  # type: ignore[no-untyped-call]
    return _folded(weight.detach(), bias.detach(), mean, scale, present, rows.classes)


def cross_entropy(found: LinearMap, rows: Rows) -> float:
    """Mean cross-entropy of rows under a map, in nats."""
    device, total = found.weight.device, 0.0
    for values, labels in _blocks(rows.values, rows.labels, device):
        total += float(F.cross_entropy(values @ found.weight.T + found.bias, labels, reduction="sum"))
    return total / len(rows.labels)


def _loss(
    values: Tensor, labels: Tensor, moments: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy and its gradients: the softmax less the label, times the standardised row.

    Standardisation is folded into the weights and the gradient, which are smaller than the rows.
    """
    mean, scale = moments
    folded = weight / scale
    shift = bias - folded @ mean
    loss = torch.zeros((), dtype=torch.float64, device=weight.device)
    by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    for block, targets in _blocks(values, labels, weight.device):
        log_p = F.log_softmax(block @ folded.T + shift, dim=1)
        loss -= log_p.gather(1, targets[:, None]).sum()
        error = log_p.exp()
        error[torch.arange(len(targets), device=weight.device), targets] -= 1
        by_weight += error.T @ block
        by_bias += error.sum(0)
    rows = len(labels)
    return loss / rows, (by_weight - torch.outer(by_bias, mean)) / scale / rows, by_bias / rows


def _moments(rows: Rows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension; infinite where it has no spread, which makes its weight 0."""
    total = torch.zeros(rows.values.shape[1], dtype=torch.float64, device=device)
    squares = torch.zeros_like(total)
    for block, _ in _blocks(rows.values, rows.labels, device):
        total += block.sum(0)
    mean = total / len(rows.labels)
    for block, _ in _blocks(rows.values, rows.labels, device):
        squares += ((block - mean) ** 2).sum(0)
    scale = (squares / len(rows.labels)).sqrt()
    return mean, torch.where(scale > 1e-12 * (1 + mean.abs()), scale, torch.inf)


def _folded(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor, present: Tensor, classes: int) -> LinearMap:
    """The map for rows as they are stored and for all classes."""
    here = present.to(weight.device)
    whole = torch.zeros(classes, weight.shape[1], dtype=torch.float64, device=weight.device)
    shift = torch.full((classes,), float(bias.min()) - ABSENT_BELOW, dtype=torch.float64, device=weight.device)
    whole[here] = weight / scale
    shift[here] = bias - whole[here] @ mean
    return LinearMap(whole, shift)


def _blocks(values: Tensor, labels: Tensor, device: torch.device) -> "Iterator[tuple[Tensor, Tensor]]":
    for first in range(0, len(labels), _BLOCK_ROWS):
        part = slice(first, first + _BLOCK_ROWS)
        yield values[part].to(device, torch.float64), labels[part].to(device)
