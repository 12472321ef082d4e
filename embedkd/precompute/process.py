"""All slots through all jobs: read, decode, run the teachers, check the tar, put the objects, put the commit.

Nothing waits for anything else: one thread reads and hashes tars, decoding has its own threads or processes, one thread
makes batches, the teachers run in the caller's thread, and one thread encodes and writes. Queues between them are
bounded, and they run on across the ends of slots.
"""

import os
import pickle
import platform
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from embedkd.errors import ShardError, TeacherError
from embedkd.precompute.batch_size import advise_smaller, is_out_of_memory
from embedkd.precompute.batches import Assembler, Batch
from embedkd.precompute.channel import Flow
from embedkd.precompute.decoding import DecodePool
from embedkd.precompute.hardware import use_threads
from embedkd.precompute.reading import Chunk, Reader, SlotRun
from embedkd.precompute.rows import TEXT, Job, SlotTable
from embedkd.rundir import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedkd.precompute.worker import Transform
    from embedkd.progress import Progress
    from embedkd.store import Commit, EmbeddingStore, Slot

_READY_BATCHES = 2  # that may wait for a teacher, beside the one that is being filled
_MAX_REPORTS = 5


@dataclass
class Tally:
    """What a run has done so far.

    Attributes:
        rows: Samples computed.
        computed: Samples computed, by teacher.
        bad: Samples that lack an embedding, by reason; what is not finite counts for each job.
        decode_s: Seconds of decoding, summed over threads.
        teacher_s: Seconds in the teachers.
    """

    rows: int = 0
    computed: "Counter[str]" = field(default_factory=Counter)
    bad: "Counter[str]" = field(default_factory=Counter)
    decode_s: float = 0.0
    teacher_s: float = 0.0


class ShardProcessor:
    """Runs teachers over slots, whichever engine hands them out. Each image is decoded once for all of them.

    Args:
        store: The store.
        data_root: Where the shards lie.
        jobs: Teachers and their passes.
        decode_workers: Processes that decode and preprocess images; 0 does it in threads, one a processor.
        max_bad_fraction: A shard with a greater share of samples without an embedding stops the run.
        progress: Who watches.
        pin_memory: Whether batches are put into page-locked memory; for teachers on a GPU.
    """

    def __init__(
        self,
        store: "EmbeddingStore",
        data_root: str,
        jobs: "Sequence[Job]",
        *,
        decode_workers: int,
        max_bad_fraction: float,
        progress: "Progress",
        pin_memory: bool = False,
    ) -> None:
        self._store = store
        self._root = data_root
        self._jobs = tuple(jobs)
        self._decode_workers = decode_workers
        self._max_bad_fraction = max_bad_fraction
        self._progress = progress
        self._pin_memory = pin_memory
        self._tables: dict[Job, SlotTable] = {}
        self._threads = 0
        self.tally = Tally()

    def run(self, slots: "Sequence[Slot]") -> Tally:
        """Compute and commit the slots that lack a commit of any job, in the order given.

        Raises:
            SourceError: A tar is not the one that was indexed, a label or too many samples cannot be used, or a decode
                worker died.
            TeacherError: A teacher gave an output of another shape than it declares, had no memory, or gave too many
                rows that are not finite.
            ConflictError: Another writer put something else.
        """
        self._tables.clear()
        with self._pipeline(slots) as items, ThreadPoolExecutor(1, thread_name_prefix="embedkd-write") as disk:
            writing: dict[Job, Future[Commit]] = {}
            try:
                for item in items:
                    if isinstance(item, Batch):
                        self._embed(item)
                    else:
                        self._finish(item, disk, writing)
            finally:
                # On an error or Ctrl-C a slot that is complete is still written; nothing else was begun.
                for commit in writing.values():
                    commit.result()
        return self.tally

    @contextmanager
    def _pipeline(self, slots: "Sequence[Slot]") -> "Iterator[Iterator[Batch | SlotRun]]":
        """What the threads before the teachers make; they end with it, however it ends."""
        transforms, numbers = _transforms(self._jobs)
        pool = DecodePool(
            transforms,
            self._store.policy,
            workers=self._decode_workers,
            threads=usable_cpus(),
            batch_rows=max((job.plan.batch_size for job in self._jobs), default=1),
        )
        read: Flow[Chunk | SlotRun] = Flow(pool.blocks + 1)
        ready: Flow[Batch | SlotRun] = Flow(_READY_BATCHES)
        reader = Reader(self._store, self._root, numbers, pool).read(slots)
        batches = Assembler(numbers, pool, pinned=self._pin_memory).batches(read)
        threads = [
            threading.Thread(target=read.fill, args=(reader,), name="embedkd-read"),
            threading.Thread(target=ready.fill, args=(batches,), name="embedkd-batch"),
        ]
        try:
            for thread in threads:
                thread.start()
            yield iter(ready)
        finally:
            read.close()
            ready.close()
            pool.close()
            for thread in threads:
                thread.join()

    def _embed(self, batch: Batch) -> None:
        """Let the teacher say its rows of one batch; samples without pixels or caption stay NaN."""
        job = batch.job
        table = self._tables.get(job) or SlotTable(job, batch.run.slot.rows)
        self._tables[job] = table
        if job.plan.threads != self._threads:
            self._threads = job.plan.threads
            use_threads(self._threads)
        started = time.perf_counter()
        try:
            said = {} if batch.pixels is None else job.teacher.embed(batch.pixels, job.image_outputs)
            text = None if batch.tokens is None else job.teacher.embed_text(batch.tokens)
        except Exception as error:
            if is_out_of_memory(error):
                raise TeacherError(advise_smaller(job)) from error
            raise
        for name in job.image_outputs:
            table.put(name, batch.first, batch.image_status, said.get(name))
        if job.reads_text:
            table.put(TEXT, batch.first, batch.text_status, text)
        self.tally.teacher_s += time.perf_counter() - started
        self._progress.advance(batch.rows)

    def _finish(self, run: SlotRun, disk: ThreadPoolExecutor, writing: "dict[Job, Future[Commit]]") -> None:
        """Check a complete slot, and let it be written."""
        self._count(run)
        self._check(run)
        for job in run.jobs:
            if job in writing:
                writing[job].result()
            writing[job] = disk.submit(job.writer.write, run.slot, self._tables.pop(job).rows(run), _attempt(run))

    def _count(self, run: SlotRun) -> None:
        where = run.slot.shard.url
        self.tally.rows += run.slot.rows
        self.tally.decode_s += run.decode_s
        for teacher_id in {job.writer.spec.teacher_id for job in run.jobs}:
            self.tally.computed[teacher_id] += run.slot.rows
        for fault in run.faults:
            what = "text embedding" if fault.field == "text" else "embedding"
            self._report(f"sample {fault.key!r} of {where} has no {what}: {fault.reason}")
            self.tally.bad[fault.status.name.lower()] += 1
        for job in run.jobs:
            lost = {int(row) for name in job.plan.outputs for row in self._tables[job].not_finite(name)}
            for row in sorted(lost):
                self._report(f"row {row} of {where}: {job.writer.spec.title} says values that are not finite")
                self.tally.bad["non_finite"] += 1

    def _report(self, line: str) -> None:
        if self.tally.bad.total() < _MAX_REPORTS:
            self._progress.line(line)

    def _check(self, run: SlotRun) -> None:
        """Stop where a slot lacks more than it may, before it is committed."""
        where, limit = run.slot.shard.url, self._max_bad_fraction * run.slot.rows
        for kind, verb in (("image", "cannot be read"), ("text", "have no caption that can be used")):
            bad = [fault for fault in run.faults if fault.field == kind]
            if len(bad) > limit:
                raise ShardError(
                    f"{len(bad)} of {run.slot.rows} samples of {where} {verb} (first: {bad[0].key!r}: "
                    f"{bad[0].reason}); mend the shard, or raise precompute.max_bad_fraction"
                )
        for job in run.jobs:
            for name in job.plan.outputs:
                count = len(self._tables[job].not_finite(name))
                if count > limit:
                    raise TeacherError(
                        f"{job.writer.spec.title}: {name} is not finite for {count} of {run.slot.rows} samples of "
                        f"{where}\nleave {name} out with --outputs, try --set precompute.precision=float32, or raise "
                        "precompute.max_bad_fraction"
                    )


def _transforms(jobs: "Sequence[Job]") -> "tuple[list[Transform], dict[Job, int | None]]":
    """Every different transform once, and which of them is each job's; None for a job that wants no pixels."""
    places: dict[bytes, int] = {}
    transforms: list[Transform] = []
    numbers: dict[Job, int | None] = {}
    for job in jobs:
        numbers[job] = None
        if job.image_outputs:
            transform = job.transform
            same = pickle.dumps(transform)
            if same not in places:
                places[same] = len(transforms)
                transforms.append(transform)
            numbers[job] = places[same]
    return transforms, numbers


def _attempt(run: SlotRun) -> dict[str, str]:
    """Facts about this attempt, for people; nothing depends on them."""
    begun = datetime.fromtimestamp(run.started, UTC).isoformat(timespec="milliseconds")
    return {
        "started": begun,
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "process": str(os.getpid()),
        "system": f"{platform.system()} {platform.machine()}",
    }
