"""The losses' parts once more, as loops over Python's floats: slow, and too plain to be wrong in the same way."""

import math
from collections.abc import Sequence

import torch

Row = Sequence[float]


def rows(*shape: int, seed: int) -> torch.Tensor:
    """Normal float64 rows, the same for one seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def softmax(logits: Row) -> list[float]:
    total = math.fsum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


def divergence(target: Row, student: Row) -> float:
    """KL divergence of two distributions."""
    return math.fsum(p * math.log(p / q) for p, q in zip(target, student, strict=True) if p > 0)


def entropy(target: Row) -> float:
    return -math.fsum(p * math.log(p) for p in target if p > 0)


def huber(a: float, b: float) -> float:
    return 0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5
