"""Slots as they are read: samples in chunks, then the slot's end, by which its tar is known to be whole."""

import time
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from embedkd.errors import ShardError
from embedkd.records import Place, RowStatus, Sample, key_hash
from embedkd.sources.fields import CAPTION_SUFFIX, image_suffix, label
from embedkd.sources.reader import ShardStream, check_same
from embedkd.sources.roots import ShardSource, open_root

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from embedkd.precompute.decoding import DecodePool
    from embedkd.precompute.rows import Job
    from embedkd.precompute.worker import Decoded
    from embedkd.store import EmbeddingStore, Slot

_CHUNK_BYTES = 16 << 20  # files of one chunk, so that huge ones do not pile up


@dataclass(frozen=True)
class Fault:
    """Why one sample has no embedding of an image, or of a text."""

    row: int
    key: str
    field: Literal["image", "text"]
    status: RowStatus
    reason: str


@dataclass
class SlotRun:
    """One slot on its way; when it comes behind its chunks, it is complete.

    Attributes:
        slot: The slot.
        jobs: Those that lack its commit.
        started: When it was begun.
        hashes: Of the keys so far.
        labels: So far.
        places: Of the samples in the tar, so far.
        faults: Samples that something is missing of, in order.
        source: ``url``, ``bytes`` and ``blake2b`` of the tar, once it was read.
        decode_s: Seconds of decoding, summed over threads.
    """

    slot: "Slot"
    jobs: "tuple[Job, ...]"
    started: float = field(default_factory=time.time)
    hashes: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    source: "Mapping[str, Any]" = field(default_factory=dict)
    decode_s: float = 0.0

    @property
    def reads_images(self) -> bool:
        """Whether a job wants pixels."""
        return any(job.image_outputs for job in self.jobs)

    @property
    def reads_text(self) -> bool:
        """Whether a job wants captions."""
        return any(job.reads_text for job in self.jobs)


@dataclass(frozen=True)
class Chunk:
    """Consecutive samples of one slot.

    Attributes:
        run: Of the slot.
        first: Row of the first sample.
        keys: Of the samples.
        captions: Texts; None where there is none. Empty where nobody wants any.
        faults: What was found wrong without decoding an image.
        block: Where the pixels are.
        decoded: Done when they are there; None where nobody wants pixels.
    """

    run: SlotRun
    first: int
    keys: list[str]
    captions: list[str | None]
    faults: list[Fault]
    block: int
    decoded: "Future[Decoded] | None"


class Reader:
    """Reads slots one after the other and hands their images to be decoded.

    Args:
        store: The store.
        root: Where the shards lie.
        jobs: Everything that wants rows, with the number of its transform; None where it wants no pixels.
        pool: Decodes.
    """

    def __init__(
        self, store: "EmbeddingStore", root: str, jobs: "Mapping[Job, int | None]", pool: "DecodePool"
    ) -> None:
        self._store = store
        self._root = open_root(root)
        self._jobs = jobs
        self._pool = pool

    def read(self, slots: "Sequence[Slot]") -> "Generator[Chunk | SlotRun, None, None]":
        """Chunks and ends of all slots that lack a commit.

        Raises:
            ShardError: A tar is not the one that was indexed, or a label or too many images cannot be used.
        """
        for slot in slots:
            jobs = tuple(job for job in self._jobs if not job.writer.is_committed(slot))
            if jobs:
                yield from self._read_slot(SlotRun(slot, jobs))

    def _read_slot(self, run: SlotRun) -> "Iterator[Chunk | SlotRun]":
        slot, shard = run.slot, run.slot.shard
        with ShardStream(ShardSource(self._root, shard.url)) as stream:
            samples = iter(stream)
            for part in _chunks(islice(samples, slot.start, slot.start + slot.rows), self._pool.chunk_rows):
                yield self._begin(run, part)
            total = slot.start + len(run.hashes) + sum(1 for _ in samples)
            run.source = {"url": shard.url, "bytes": stream.size_bytes, "blake2b": stream.blake2b}
        check_same(shard, stream.size_bytes, stream.blake2b, total)
        yield run

    def _begin(self, run: SlotRun, samples: list[Sample]) -> Chunk:
        first = len(run.hashes)
        faults: list[Fault] = []
        images = [self._image(run, first + at, sample, faults) for at, sample in enumerate(samples)]
        captions = [_caption(first + at, s, faults) for at, s in enumerate(samples)] if run.reads_text else []
        run.labels.extend(self._label(run, sample) for sample in samples)
        run.hashes.extend(key_hash(sample.key) for sample in samples)
        run.places.extend(sample.place for sample in samples)
        wanted = {transform for job in run.jobs if (transform := self._jobs[job]) is not None}
        block = self._pool.free.get()
        keys = [sample.key for sample in samples]
        parts = list(zip(images, keys, strict=True))
        decoded = self._pool.submit(parts, block, tuple(sorted(wanted))) if wanted else None
        return Chunk(run, first, keys, captions, faults, block, decoded)

    def _label(self, run: SlotRun, sample: Sample) -> int:
        where = f"sample {sample.key!r} of {run.slot.shard.url}"
        number = label(sample.fields, where)
        classes = self._store.class_names
        if classes is not None and number >= len(classes):
            raise ShardError(
                f"{where} has label {number}, the data has {len(classes)} classes (0 to {len(classes) - 1})"
            )
        return number

    def _image(self, run: SlotRun, row: int, sample: Sample, faults: list[Fault]) -> bytes | None:
        if not run.reads_images:
            return None
        suffix = image_suffix(sample.fields, f"sample {sample.key!r} of {run.slot.shard.url}")
        if suffix is None:
            faults.append(Fault(row, sample.key, "image", RowStatus.FIELD_MISSING, "no image"))
            return None
        return sample.fields[suffix]


def _chunks(samples: "Iterator[Sample]", rows: int) -> "Iterator[list[Sample]]":
    part: list[Sample] = []
    size_bytes = 0
    for sample in samples:
        part.append(sample)
        size_bytes += sum(len(data) for data in sample.fields.values())
        if len(part) == rows or size_bytes >= _CHUNK_BYTES:
            yield part
            part, size_bytes = [], 0
    if part:
        yield part


def _caption(row: int, sample: Sample, faults: list[Fault]) -> str | None:
    data = sample.fields.get(CAPTION_SUFFIX)
    if data is None:
        faults.append(Fault(row, sample.key, "text", RowStatus.FIELD_MISSING, f"no caption (.{CAPTION_SUFFIX})"))
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        faults.append(Fault(row, sample.key, "text", RowStatus.DECODE_ERROR, "a caption that is not UTF-8"))
        return None
