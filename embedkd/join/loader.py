"""Batches made by worker processes, in their order, and the errors of workers as they were raised."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from embedkd.errors import EmbedKDError, JoinError
from embedkd.join.dataset import Batch, JoinedShards


@dataclass(frozen=True)
class _Failure:
    """An error on its way out of a worker: torch would wrap its one line into a traceback."""

    kind: type[EmbedKDError]
    message: str

    def reraise(self) -> NoReturn:
        raise self.kind.__new__(self.kind, self.message)  # past an __init__ that builds the message from other facts


class _Guarded(IterableDataset[Batch]):
    """Batches, and in a worker, as the last item, the error that ended them."""

    def __init__(self, dataset: JoinedShards) -> None:
        super().__init__()
        self._dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        if get_worker_info() is None:
            yield from self._dataset
            return
        try:
            yield from self._dataset
        except EmbedKDError as error:
            yield _Failure(type(error), str(error))


class BatchLoader(DataLoader[Batch]):
    """A DataLoader over batches, in their order.

    Raises:
        JoinError: On iteration: a worker process died.
        EmbedKDError: On iteration: what `JoinedShards.batch` raised.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = super().__iter__()
        while (item := self._next(batches)) is not None:
            if isinstance(item, _Failure):
                item.reraise()
            yield item

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except (RuntimeError, EOFError, OSError) as error:
            # A dead worker is noticed as such, or by tensors that it sent and no longer holds.
            if not self.num_workers or (type(error) is RuntimeError and not str(error).startswith("DataLoader worker")):
                raise
            raise JoinError("a data worker was killed; was there too little memory? try fewer workers") from error


def make_loader(dataset: JoinedShards, *, workers: int, pin_memory: bool = False) -> BatchLoader:
    """A DataLoader over batches, in their order.

    Workers start by forkserver: a fork of a process that has read an object store hangs, and one that runs CUDA dies.
    They ignore Ctrl-C, which is for the process that iterates to answer.

    Args:
        dataset: The batches.
        workers: Processes that read and decode; 0 does it in this one.
        pin_memory: Whether batches are put into page-locked memory.
    """
    if not workers:
        return BatchLoader(dataset, batch_size=None, pin_memory=pin_memory)
    context = torch.multiprocessing.get_context("forkserver")
    # What every worker needs is imported once, in the server that they fork from: torchvision alone takes seconds.
    context.set_forkserver_preload([__name__, type(dataset.transform).__module__])
    return BatchLoader(
        _Guarded(dataset),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        multiprocessing_context=context,
        persistent_workers=True,
        prefetch_factor=4,
        worker_init_fn=_ignore_interrupt,
    )


def _ignore_interrupt(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
