"""How the samples of an epoch are divided into steps, a step into forward passes, and each of those over ranks."""

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from embedkd.training.distributed import ALONE, Ranks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """What one rank has of a forward pass.

    Attributes:
        counts: Samples that count, of each rank.
        rank: Which of them is this one.
    """

    counts: tuple[int, ...]
    rank: int = 0

    @property
    def alone(self) -> bool:
        """Whether there is but one rank."""
        return len(self.counts) == 1

    @property
    def begin(self) -> int:
        """Where this rank's samples begin among those of all."""
        return sum(self.counts[: self.rank])

    @property
    def own(self) -> "Tensor":
        """int64 [B], where each of this rank's samples lies among those of all.

        A rank without samples keeps one that does not count, because all must go through the same steps: it points to
        the first of the others.
        """
        count = self.counts[self.rank]
        return torch.arange(self.begin, self.begin + count) if count else torch.zeros(1, dtype=torch.int64)

    def gather(self, rows: "Tensor") -> "Tensor":
        """Rows of all ranks.

        Args:
            rows: [B, ...], this rank's.

        Returns:
            [N, ...], in the order of ranks. Gradients that all ranks have for a row come back to the rank that gave it.
        """
        if self.alone:
            return rows
        gathered: Tensor = _Gather.apply(rows[: self.counts[self.rank]], self)
        return gathered


class _Gather(torch.autograd.Function):
    """Concatenation over ranks as a sum of what is zero elsewhere: ranks may have unequally many rows, or none.

    torch's own all_gather with gradients wants equal shapes, and is deprecated.
    """

    @staticmethod
    def forward(ctx: Any, rows: "Tensor", share: Share) -> "Tensor":
        ctx.share = share
        total = rows.new_zeros(sum(share.counts), *rows.shape[1:])
        total[share.begin : share.begin + len(rows)] = rows
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: "Tensor") -> "tuple[Tensor, None]":
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        begin = ctx.share.begin
        return total[begin : begin + ctx.share.counts[ctx.share.rank]], None


@dataclass(frozen=True)
class Division:
    """How the samples of an epoch are divided into steps, a step into parts, and a part over ranks.

    A part is one forward pass of all ranks together; it is what `embedkd.join` calls a batch.

    Attributes:
        rows: Samples an epoch.
        global_batch_size: Samples a step; the last of an epoch may have fewer.
        accumulate: Parts a step.
        ranks: Who takes part.
    """

    rows: int
    global_batch_size: int
    accumulate: int = 1
    ranks: Ranks = ALONE

    @property
    def part_rows(self) -> int:
        """Samples a part."""
        return self.global_batch_size // self.accumulate

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return -(-self.rows // self.global_batch_size)

    def parts(self, step: int) -> tuple[Share, ...]:
        """This rank's share of each part of a step.

        Args:
            step: From 0, over all epochs.
        """
        begin = step % self.steps * self.global_batch_size
        end = min(begin + self.global_batch_size, self.rows)
        sizes = [min(self.part_rows, end - at) for at in range(begin, end, self.part_rows)]
        return tuple(Share(self._counts(size), self.ranks.rank) for size in sizes)

    def by_step(self, batches: "Iterable[T]", step: int) -> "Iterator[tuple[T, ...]]":
        """The batches of each step together.

        Args:
            batches: One a part, in one stream that begins at a step.
            step: That one, from 0, over all epochs.
        """
        stream = iter(batches)
        while taken := tuple(islice(stream, len(self.parts(step)))):
            yield taken
            step += 1

    def _counts(self, size: int) -> tuple[int, ...]:
        """As `embedkd.join.order.batch_positions` deals out a batch: equally many each, but for the last ranks."""
        each = -(-size // self.ranks.size)
        return tuple(max(0, min(each, size - rank * each)) for rank in range(self.ranks.size))
