"""Several processes that train one student: who they are, and what they tell one another.

Where there is one process nothing here touches torch.distributed, and every call gives back what it was given.
"""

import os
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from embedkd.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

_SILENCE: Final = timedelta(minutes=30)  # of the others: rank 0 may write for long, and a dead one is noticed earlier
_PRECEDENCE_S: Final = 2.0
_TELLER: Final = "who tells what went wrong"
_MEETINGS: Final = count()  # of this process, and of all others


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: Of this process, from 0; rank 0 alone writes the run folder.
        size: How many there are, on all machines.
        local_rank: Of this process among those of its machine.
        local_size: How many there are on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_environment(cls, environment: "Mapping[str, str] | None" = None) -> "Ranks":
        """As torchrun tells each process that it starts; one process where nobody told.

        Raises:
            TrainingError: What is told is not what torchrun tells.
        """
        told = os.environ if environment is None else environment
        if "WORLD_SIZE" not in told:
            return cls()
        try:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            ranks = cls(*(int(told[name]) for name in names))
        except (KeyError, ValueError) as error:
            raise TrainingError(
                f"expected RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE as numbers ({error} is not); "
                "start with torchrun, or unset WORLD_SIZE"
            ) from error
        if not (0 <= ranks.rank < ranks.size and 0 <= ranks.local_rank < ranks.local_size <= ranks.size):
            raise TrainingError(f"expected each rank below the number of ranks, got {ranks}; start with torchrun")
        return ranks

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and shows."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with the gradients of its parameters averaged over ranks, and rank 0's parameters on all."""
        if not self.several:
            return module
        return DistributedDataParallel(
            module,
            forward_sync_buffers=False,  # they are the store's classes, or what `mean_` is for
            gradient_as_bucket_view=True,
            # A head that no loss reads has no gradient. Besides, buckets then keep their order, so that sums after a
            # resume are rounded as they would have been without.
            find_unused_parameters=True,
        )

    def total(self, values: "Tensor") -> "Tensor":
        """The sum over ranks, on all of them."""
        if self.several:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def mean_(self, tensors: "Iterable[Tensor]") -> None:
        """Replace floating-point tensors by their means over ranks."""
        floats = [tensor for tensor in tensors if tensor.is_floating_point()] if self.several else []
        if not floats:
            return
        flat = torch.cat([tensor.flatten() for tensor in floats])
        dist.all_reduce(flat)
        means = torch.split(flat / self.size, [tensor.numel() for tensor in floats])
        for tensor, mean in zip(floats, means, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def agreed(self, wish: "Callable[[], bool]") -> "Callable[[], bool]":
        """A wish that is the same on all ranks: yes if one says yes. All of them must ask equally often."""
        return (lambda: bool(self.total(torch.tensor(int(wish()))))) if self.several else wish

    def listed(self, value: T) -> list[T]:
        """What each rank says, by rank, on all of them; nobody goes on before all have said it."""
        if not self.several:
            return [value]
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, value)
        return said

    def told(self, value: T) -> T:
        """What rank 0 says, on all of them; whatever the others say is not looked at."""
        if not self.several:
            return value
        said: list[Any] = [value if self.first else None]
        dist.broadcast_object_list(said, src=0)
        found: T = said[0]
        return found


ALONE: Final = Ranks()


@contextmanager
def joined(ranks: Ranks) -> "Iterator[None]":
    """Within it the processes of a run can talk to each other; when one of them fails, all end, and one says why.

    Raises:
        SystemExit: Another process says why.
        TrainingError: Another process died without a word.
    """
    if not ranks.several:
        yield
        return
    place, _, _ = next(iter(rendezvous("env://", ranks.rank, ranks.size, timeout=_SILENCE)))
    store = PrefixStore(f"embedkd {next(_MEETINGS)}", place)  # a second run must not find what the first left
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=_SILENCE)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grad strides do not match")  # a class token's, which is a few bytes
            yield
    except Exception as error:
        if not _tells(ranks, store):
            raise SystemExit(1) from error
        if isinstance(error, RuntimeError) and ("gloo" in str(error) or isinstance(error, dist.DistError)):
            raise TrainingError(
                "another process of this run died; was there too little memory? add --resume to go on"
            ) from error
        raise
    finally:
        dist.destroy_process_group()  # ends what the others wait for


def _tells(ranks: Ranks, store: "Store") -> bool:
    """Whether this process is the one that says what went wrong; rank 0 is if it failed as well."""
    end = time.monotonic() + (0 if ranks.first else _PRECEDENCE_S)
    try:
        while time.monotonic() < end and not store.check([_TELLER]):
            time.sleep(0.02)
        teller: bytes = store.compare_set(_TELLER, "", str(ranks.rank))
    except dist.DistError:
        return True  # whoever kept the store is gone
    return teller == str(ranks.rank).encode()
