"""Decoded chunks to the batches that each job's pass asks for. A batch never spans two slots."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embedkd.precompute.reading import Chunk, Fault, SlotRun
from embedkd.records import RowStatus

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from embedkd.precompute.decoding import DecodePool
    from embedkd.precompute.rows import Job


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of one slot for one teacher.

    Attributes:
        job: Whose.
        run: Of the slot.
        first: Row of the first sample.
        rows: Number of samples, those without pixels or caption included.
        image_status: u8 [rows].
        pixels: float32 [M, 3, H, W] of those whose image status is OK; None without any.
        text_status: u8 [rows].
        tokens: int64 [K, T] of those whose text status is OK; None without any.
    """

    job: "Job"
    run: SlotRun
    first: int
    rows: int
    image_status: "NDArray[np.uint8]"
    pixels: "Tensor | None"
    text_status: "NDArray[np.uint8]"
    tokens: "Tensor | None"


@dataclass
class _Statuses:
    """Of the samples of a chunk: u8 [n] for images and for texts."""

    image: "NDArray[np.uint8]"
    text: "NDArray[np.uint8]"

    @classmethod
    def of(cls, chunk: Chunk, faults: list[Fault]) -> "_Statuses":
        made = cls(*(np.full(len(chunk.keys), RowStatus.OK, np.uint8) for _ in range(2)))
        for fault in faults:
            (made.image if fault.field == "image" else made.text)[fault.row - chunk.first] = fault.status
        return made


@dataclass
class _Open:
    """A batch that is being filled."""

    job: "Job"
    run: SlotRun
    first: int
    capacity: int
    pinned: bool
    rows: int = 0
    usable: int = 0
    image: "list[NDArray[np.uint8]]" = field(default_factory=list)
    text: "list[NDArray[np.uint8]]" = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    pixels: "Tensor | None" = None

    def add(self, chunk: Chunk, statuses: _Statuses, part: slice, pixels: "NDArray[np.float32] | None") -> None:
        """Take some samples of a chunk."""
        self.rows += part.stop - part.start
        self.image.append(statuses.image[part])
        self.text.append(statuses.text[part])
        if self.job.reads_text:
            self.captions += [caption for caption in chunk.captions[part] if caption is not None]
        if pixels is not None:
            self._copy(pixels[part], statuses.image[part] == RowStatus.OK)

    def _copy(self, pixels: "NDArray[np.float32]", usable: "NDArray[np.bool_]") -> None:
        count = int(usable.sum())
        if not count:
            return
        if self.pixels is None:
            import torch

            self.pixels = torch.empty(self.capacity, *pixels.shape[1:], pin_memory=self.pinned)
        # By numpy: in a thread of its own torch would copy with as many threads again as the teacher computes with.
        out = self.pixels.numpy()[self.usable : self.usable + count]
        np.copyto(out, pixels if count == len(pixels) else pixels[usable])
        self.usable += count

    def close(self) -> Batch:
        """The batch, its captions as tokens."""
        tokenize = self.job.teacher.tokenize
        tokens = tokenize(self.captions) if self.captions and tokenize is not None else None
        pixels = None if self.pixels is None else self.pixels[: self.usable]
        image, text = np.concatenate(self.image), np.concatenate(self.text)
        return Batch(self.job, self.run, self.first, self.rows, image, pixels, text, tokens)


class Assembler:
    """Makes batches of chunks.

    Args:
        jobs: Every job, with the number of its transform; None where it wants no pixels.
        pool: Has the pixels.
        pinned: Whether batches are put into page-locked memory, from which a GPU copies without waiting.
    """

    def __init__(self, jobs: "Mapping[Job, int | None]", pool: "DecodePool", *, pinned: bool) -> None:
        self._jobs = jobs
        self._pool = pool
        self._pinned = pinned
        self._open: dict[Job, _Open] = {}

    def batches(self, items: "Iterable[Chunk | SlotRun]") -> "Generator[Batch | SlotRun, None, None]":
        """Batches of all jobs as they get full, and each slot's end behind its last ones.

        Raises:
            SourceError: A decode worker died.
            TeacherError: A teacher's preprocessing failed.
        """
        for item in items:
            if isinstance(item, Chunk):
                yield from self._take(item)
                continue
            for batch in self._open.values():
                yield batch.close()
            self._open.clear()
            yield item

    def _take(self, chunk: Chunk) -> "Iterator[Batch]":
        faults = _wait(chunk)
        statuses = _Statuses.of(chunk, faults)
        for job in chunk.run.jobs:
            transform = self._jobs[job]
            pixels = None if transform is None else self._pool.pixels(chunk.block, transform)
            yield from self._feed(job, chunk, statuses, pixels)
        self._pool.free.put(chunk.block)

    def _feed(
        self, job: "Job", chunk: Chunk, statuses: _Statuses, pixels: "NDArray[np.float32] | None"
    ) -> "Iterator[Batch]":
        at, size = 0, job.plan.batch_size
        while at < len(chunk.keys):
            first = chunk.first + at
            batch = self._open.get(job)
            if batch is None:
                capacity = min(size, chunk.run.slot.rows - first)
                batch = self._open[job] = _Open(job, chunk.run, first, capacity, self._pinned)
            end = min(len(chunk.keys), at + size - batch.rows)
            batch.add(chunk, statuses, slice(at, end), pixels)
            at = end
            if batch.rows == size:
                del self._open[job]
                yield batch.close()


def _wait(chunk: Chunk) -> list[Fault]:
    """All faults of a chunk in order, also those that decoding found; they are noted with the slot."""
    faults = list(chunk.faults)
    if chunk.decoded is not None:
        decoded = chunk.decoded.result()
        chunk.run.decode_s += decoded.seconds
        for at, reason in decoded.faults.items():
            faults.append(Fault(chunk.first + at, chunk.keys[at], "image", RowStatus.DECODE_ERROR, reason))
    faults.sort(key=lambda fault: (fault.row, fault.field))
    chunk.run.faults += faults
    return faults
