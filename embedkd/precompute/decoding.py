"""Decoding beside the teacher: threads of this process, or worker processes that write into shared memory.

Every chunk in flight has a block of one buffer to write its pixels into, so the number of blocks bounds both the images
and the bytes that wait for the teacher.
"""

import ctypes
import multiprocessing
import pickle
import pickletools
import signal
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import EmbedKDError, SourceError
from embedkd.precompute.channel import Channel
from embedkd.precompute.worker import (
    Decoded,
    Transform,
    block_bytes,
    block_views,
    chunk_rows,
    decode_into,
    serve,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from numpy.typing import NDArray

    from embedkd.precompute.worker import Part
    from embedkd.records import DecodePolicy

WINDOW_BYTES = 1 << 30
_LEAVE_S = 10.0


@dataclass(frozen=True)
class _Worker:
    process: "BaseProcess"
    tasks: "Connection"

    def decode(self, task: "tuple[list[Part], int, tuple[int, ...]]") -> Decoded:
        try:
            self.tasks.send(task)
            reply = self.tasks.recv()
        except (EOFError, OSError) as error:
            raise SourceError(self._epitaph()) from error
        if isinstance(reply, EmbedKDError):
            raise reply
        assert isinstance(reply, Decoded)
        return reply

    def _epitaph(self) -> str:
        self.process.join(_LEAVE_S)
        code = self.process.exitcode
        if code is not None and code > 0:
            return (
                f"a decode worker ended with exit code {code}; a script that calls precompute needs an "
                "if __name__ == '__main__' guard, or precompute.decode_workers=0"
            )
        return (
            "a decode worker was killed; was there too little memory? run the same command again, it goes on; "
            "--set precompute.decode_workers=0 decodes in threads"
        )

    def leave(self) -> None:
        self.tasks.close()
        self.process.join(_LEAVE_S)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()


class DecodePool:
    """Decodes chunks of images, several at a time.

    Args:
        transforms: Of all teachers and views.
        policy: How images are decoded.
        workers: Worker processes; 0 decodes in threads.
        threads: Threads where there are no workers.
        batch_rows: Images of the largest batch that a teacher waits for.

    Attributes:
        free: Blocks that nobody writes into or reads from; to be put back when their pixels were taken.
        blocks: How many there are.
        chunk_rows: Samples of a chunk at most.
    """

    def __init__(
        self, transforms: "Sequence[Transform]", policy: "DecodePolicy", *, workers: int, threads: int, batch_rows: int
    ) -> None:
        self._transforms = list(transforms)
        self._shapes = [transform.crop_px for transform in transforms]
        self._policy = policy
        self._workers = workers if transforms else 0
        lanes = self._workers or threads
        self.chunk_rows = chunk_rows(len(transforms))
        self.blocks = window_blocks(lanes, -(-batch_rows // self.chunk_rows), block_bytes(self._shapes))
        self._buffer = self._allocate()
        self._views = block_views(self._buffer, self._shapes, self.blocks)
        self.free: Channel[int] = Channel(self.blocks)
        for block in range(self.blocks):
            self.free.put(block)
        self._own = threading.local()
        self._started: list[_Worker] = []
        self._starting = threading.Lock()
        self._lanes = ThreadPoolExecutor(lanes, thread_name_prefix="embedkd-decode")

    def _allocate(self) -> Any:
        size = self.blocks * block_bytes(self._shapes)
        if not self._workers:
            return np.empty(size, np.uint8)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([serve.__module__, *_modules_of(self._transforms)])
        # A file without a name: it is gone with the last process that has it, whoever is killed.
        return self._context.RawArray(ctypes.c_uint8, max(size, 1))

    def submit(self, parts: "list[Part]", block: int, wanted: tuple[int, ...]) -> "Future[Decoded]":
        """Decode a chunk into a block.

        Args:
            parts: Up to `chunk_rows` files with their keys.
            block: One that was taken from `free`.
            wanted: Numbers of the transforms whose pixels are needed.
        """
        return self._lanes.submit(self._remote if self._workers else self._local, parts, block, wanted)

    def pixels(self, block: int, transform: int) -> "NDArray[np.float32]":
        """What a chunk left in its block: [chunk_rows, 3, H, W]."""
        return self._views[block][transform]

    def _local(self, parts: "list[Part]", block: int, wanted: tuple[int, ...]) -> Decoded:
        return decode_into(parts, [(self._transforms[i], self._views[block][i]) for i in wanted], self._policy)

    def _remote(self, parts: "list[Part]", block: int, wanted: tuple[int, ...]) -> Decoded:
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = self._start()
        return worker.decode((parts, block, wanted))

    def _start(self) -> _Worker:
        """Start the worker of this thread; it is started here so that the teacher need not wait for it."""
        ours, theirs = Pipe()
        blobs = pickle.dumps(self._transforms), pickle.dumps(self._policy)
        with self._starting, theirs, _ctrl_c_held_back():
            process = self._context.Process(
                target=serve, args=(theirs, self._buffer, self._shapes, self.blocks, *blobs), daemon=True
            )
            process.start()
            self._started.append(_Worker(process, ours))
        return self._started[-1]

    def close(self) -> None:
        """Begin nothing new, and end every thread and process."""
        self.free.close()
        self._lanes.shutdown(wait=True, cancel_futures=True)
        for worker in self._started:
            worker.leave()


@contextmanager
def _ctrl_c_held_back() -> "Iterator[None]":
    """What is started here never sees a Ctrl-C, from its first instruction on; here it arrives a moment later.

    The server that workers fork from spends seconds on imports, and a traceback in it would hide our line.
    """
    resource_tracker.ensure_running()  # beginning it later would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def window_blocks(lanes: int, batch_chunks: int, block_size_bytes: int) -> int:
    """How many chunks may be in flight: two a lane, and those of one batch, as far as WINDOW_BYTES reach.

    >>> window_blocks(2, 8, 8 * 3 * 224 * 224 * 4), window_blocks(64, 32, 8 * 3 * 1024 * 1024 * 4)
    (12, 65)
    """
    wanted = 2 * lanes + batch_chunks
    return max(lanes + 1, min(wanted, WINDOW_BYTES // max(block_size_bytes, 1)))


def _modules_of(transforms: "list[Transform]") -> list[str]:
    """Modules that a worker needs to unpickle the transforms: imported once, in the server that workers fork from."""
    texts = {text for _, text, _ in pickletools.genops(pickle.dumps(transforms)) if isinstance(text, str)}
    return sorted(name for name in texts if name in sys.modules and name != "__main__")
