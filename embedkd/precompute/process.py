"""One slot at a time: stream the tar, decode, run the teacher, check the tar, put the objects, put the commit."""

import os
import platform
import time
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import ImageError, ShardError, TeacherError
from embedkd.records import RowStatus, Sample, key_hash
from embedkd.sources.fields import image_suffix, label
from embedkd.sources.images import decode_image
from embedkd.sources.reader import ShardStream
from embedkd.sources.shards import shard_path
from embedkd.store import SlotRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from embedkd.progress import Progress
    from embedkd.store import Commit, EmbeddingStore, PassWriter, Slot
    from embedkd.teachers.base import Teacher

_WINDOW_BATCHES = 3  # decoded batches that may wait for the teacher: it does not wait for them, and memory is bounded
_MAX_REPORTS = 5


@dataclass(frozen=True)
class _Row:
    """One sample on its way to the teacher."""

    key: str
    label: int
    status: RowStatus
    pixels: "Tensor | None" = None
    reason: str = ""
    decode_s: float = 0.0


@dataclass
class Tally:
    """What a run has done so far.

    Attributes:
        rows: Samples computed.
        bad: Samples without pixels, by reason.
        decode_s: Seconds of decoding, summed over threads.
        teacher_s: Seconds in the teacher.
    """

    rows: int = 0
    bad: "Counter[str]" = field(default_factory=Counter)
    decode_s: float = 0.0
    teacher_s: float = 0.0


class ShardProcessor:
    """Runs a teacher over slots, whichever engine hands them out.

    Decoding runs in threads (Pillow and torch release the interpreter while they work), the teacher in the caller's
    thread, and encoding and writing in one more, so that neither waits for the disk.

    Args:
        store: The store.
        data_root: Where the shards lie.
        teacher: The teacher.
        writer: Writes the teacher's pass.
        decode_threads: Threads that decode and preprocess images.
        max_bad_fraction: A shard with a greater share of unreadable samples stops the run.
        progress: Who watches.
    """

    def __init__(
        self,
        store: "EmbeddingStore",
        data_root: str,
        teacher: "Teacher",
        writer: "PassWriter",
        *,
        decode_threads: int,
        max_bad_fraction: float,
        progress: "Progress",
    ) -> None:
        self._store = store
        self._root = data_root
        self._teacher = teacher
        self._writer = writer
        self._decode_threads = decode_threads
        self._max_bad_fraction = max_bad_fraction
        self._progress = progress
        self.tally = Tally()

    def run(self, slots: "tuple[Slot, ...]") -> Tally:
        """Compute and commit the slots that have no commit yet, in the order given.

        Raises:
            ShardError: A tar is not the one that was indexed, or a label or too many images cannot be used.
            TeacherError: The teacher gave an output of another shape than it declares.
            ConflictError: Another writer put something else.
        """
        with ThreadPoolExecutor(self._decode_threads) as decoders, ThreadPoolExecutor(1) as disk:
            writing: Future[Commit] | None = None
            try:
                for slot in slots:
                    if self._writer.is_committed(slot):
                        continue
                    started = time.time()
                    rows = self._compute(slot, decoders)
                    if writing is not None:
                        writing.result()
                    writing = disk.submit(self._writer.write, slot, rows, _attempt(started))
            finally:
                # On an error or Ctrl-C the slot that is complete is still written; nothing else was begun.
                decoders.shutdown(wait=False, cancel_futures=True)
                if writing is not None:
                    writing.result()
        return self.tally

    def _compute(self, slot: "Slot", decoders: ThreadPoolExecutor) -> SlotRows:
        shard = slot.shard
        done: list[_Row] = []
        outputs = {
            name: np.full((slot.rows, output.dim), np.nan, np.float32)
            for name in self._writer.plan.outputs
            if (output := self._teacher.spec.output(name)) is not None
        }
        with ShardStream(shard_path(self._root, shard.url), shard.url) as stream:
            samples = iter(stream)
            wanted = islice(samples, slot.start, slot.start + slot.rows)
            for batch in self._batches(wanted, slot, decoders):
                self._embed(batch, outputs, len(done))
                self.tally.decode_s += sum(row.decode_s for row in batch)
                done.extend(_Row(row.key, row.label, row.status) for row in batch)
                self._progress.advance(len(batch))
            total = slot.start + len(done) + sum(1 for _ in samples)
            found = (stream.size_bytes, stream.blake2b, total)
        if found != (shard.size_bytes, shard.blake2b, shard.rows):
            raise ShardError(
                f"shard {shard.url} is not the one that was indexed: expected {shard.rows} samples in "
                f"{shard.size_bytes} bytes, got {total} in {found[0]}, or other bytes; restore it, or start a new store"
            )
        self._count(done, slot)
        return SlotRows(
            keys=np.array([key_hash(row.key) for row in done], np.uint64),
            labels=np.array([row.label for row in done], np.int32),
            outputs=outputs,
            status=dict.fromkeys(outputs, np.array([row.status for row in done], np.uint8)),
            source={"url": shard.url, "bytes": found[0], "blake2b": found[1]},
        )

    def _batches(
        self, samples: "Iterator[Sample]", slot: "Slot", decoders: ThreadPoolExecutor
    ) -> "Iterator[list[_Row]]":
        """Decoded samples in order, `batch_size` at a time, while later ones are being decoded."""
        size = self._writer.plan.batch_size
        waiting: deque[Future[_Row]] = deque()
        while True:
            for sample in islice(samples, size * _WINDOW_BATCHES - len(waiting)):
                waiting.append(decoders.submit(self._decode, sample, slot))
            if not waiting:
                return
            yield [waiting.popleft().result() for _ in range(min(size, len(waiting)))]

    def _decode(self, sample: Sample, slot: "Slot") -> _Row:
        where = f"sample {sample.key!r} of {slot.shard.url}"
        number = label(sample.fields, where)
        classes = self._store.class_names
        if classes is not None and number >= len(classes):
            raise ShardError(
                f"{where} has label {number}, the data has {len(classes)} classes (0 to {len(classes) - 1})"
            )
        suffix = image_suffix(sample.fields, where)
        if suffix is None:
            return _Row(sample.key, number, RowStatus.FIELD_MISSING, reason="no image")
        started = time.perf_counter()
        try:
            pixels = self._teacher.preprocess(decode_image(sample.fields[suffix], self._store.policy))
        except ImageError as error:
            return _Row(sample.key, number, RowStatus.DECODE_ERROR, reason=str(error))
        return _Row(sample.key, number, RowStatus.OK, pixels, decode_s=time.perf_counter() - started)

    def _embed(self, batch: list[_Row], outputs: dict[str, "np.ndarray[Any, Any]"], first: int) -> None:
        """Fill the rows of one batch; samples without pixels stay NaN."""
        import torch

        places = [first + i for i, row in enumerate(batch) if row.pixels is not None]
        if not places:
            return
        started = time.perf_counter()
        pixels = torch.stack([row.pixels for row in batch if row.pixels is not None])
        said = self._teacher.embed(pixels, self._writer.plan.outputs)
        for name, rows in outputs.items():
            values = said[name].float().cpu().numpy() if name in said else None
            expected = (len(places), rows.shape[1])
            if values is None or values.shape != expected:
                got = "none" if values is None else values.shape
                raise TeacherError(f"{self._teacher.spec.name}: expected {name} of shape {expected}, got {got}")
            rows[places] = values
        self.tally.teacher_s += time.perf_counter() - started

    def _count(self, rows: list[_Row], slot: "Slot") -> None:
        bad = [row for row in rows if row.status != RowStatus.OK]
        for row in bad:
            if self.tally.bad.total() < _MAX_REPORTS:
                self._progress.line(f"sample {row.key!r} of {slot.shard.url} has no embedding: {row.reason}")
            self.tally.bad[row.status.name.lower()] += 1
        self.tally.rows += len(rows)
        if len(bad) > self._max_bad_fraction * len(rows):
            raise ShardError(
                f"{len(bad)} of {len(rows)} samples of {slot.shard.url} cannot be read (first: {bad[0].key!r}: "
                f"{bad[0].reason}); mend the shard, or raise precompute.max_bad_fraction"
            )


def _attempt(started: float) -> dict[str, str]:
    """Facts about this attempt, for people; nothing depends on them."""
    begun = datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds")
    return {
        "started": begun,
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "process": str(os.getpid()),
        "system": f"{platform.system()} {platform.machine()}",
    }
