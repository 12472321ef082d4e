"""A storage whose N-th operation fails, around any storage; which one and how is a function of a seed."""

import threading
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

from embedkd.errors import StorageError
from embedkd.seeding import generator
from embedkd.storage import Storage


class Fault(StrEnum):
    BEFORE = "an error; nothing was done"
    AFTER = "an error after it was done: the answer is lost"
    TIMEOUT = "no answer in time; nothing was done"
    PARTIAL = "half the bytes, without an error; of a put: an error, and nothing was done"
    UNAVAILABLE = "503 until patience ended; nothing was done"


_SAYS = {
    Fault.BEFORE: "the connection broke",
    Fault.AFTER: "the connection broke",
    Fault.TIMEOUT: "the server took too long",
    Fault.PARTIAL: "the body was cut",
    Fault.UNAVAILABLE: "the server answered 503 (8 times)",
}


def seeded(seed: int, operations: int, rate: float) -> dict[int, Fault]:
    """Faults for the operations 0 to ``operations - 1``, each with probability ``rate``."""
    rng = generator(seed, "faulty storage")
    faults = list(Fault)
    chosen = rng.integers(len(faults), size=operations)
    return {n: faults[chosen[n]] for n in range(operations) if rng.random() < rate}


class FaultyStorage:
    """Does what the inner storage does, but for the operations that are to fail; safe for threads.

    Args:
        inner: The storage.
        faults: Number of an operation, from 0, to what becomes of it.
        along: Another one, whose operations and faults are counted together with these.

    Attributes:
        operations: Names and keys, in the order in which they began.
    """

    def __init__(
        self, inner: Storage, faults: Mapping[int, Fault] | None = None, along: "FaultyStorage | None" = None
    ) -> None:
        self.inner = inner
        self.operations: list[tuple[str, str]] = [] if along is None else along.operations
        self._faults: Mapping[int, Fault] = (faults or {}) if along is None else along._faults
        self._lock: threading.Lock = threading.Lock() if along is None else along._lock

    @property
    def url(self) -> str:
        return self.inner.url

    def _begin(self, operation: str, key: str) -> Fault | None:
        with self._lock:
            self.operations.append((operation, key))
            return self._faults.get(len(self.operations) - 1)

    def _fail(self, fault: Fault | None, operation: str, key: str) -> None:
        if fault is not None:
            raise StorageError(f"cannot {operation} {self.url}/{key}: {_SAYS[fault]}")

    def get(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        fault = self._begin("read", key)
        data = self.inner.get(key, limit_bytes=limit_bytes)
        if fault is Fault.PARTIAL:
            return data[: len(data) // 2]
        self._fail(fault, "read", key)
        return data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        fault = self._begin("read", key)
        data = self.inner.get_range(key, start, length)
        if fault is Fault.PARTIAL:
            return data[: len(data) // 2]
        self._fail(fault, "read", key)
        return data

    def stream(self, key: str, start: int = 0) -> Iterator[bytes]:
        fault = self._begin("read", key)
        for chunk in self.inner.stream(key, start):
            yield chunk[: len(chunk) // 2] if fault is Fault.PARTIAL else chunk
            self._fail(None if fault is Fault.PARTIAL else fault, "read", key)

    def size(self, key: str) -> int:
        self._fail(self._begin("look at", key), "look at", key)
        return self.inner.size(key)

    def exists(self, key: str) -> bool:
        self._fail(self._begin("look at", key), "look at", key)
        return self.inner.exists(key)

    def list_names(self, prefix: str) -> list[str]:
        self._fail(self._begin("list", prefix), "list", prefix)
        return self.inner.list_names(prefix)

    def replace(self, key: str, data: bytes) -> None:
        self._change("write", key, lambda: self.inner.replace(key, data))

    def remove(self, key: str) -> None:
        self._change("remove", key, lambda: self.inner.remove(key))

    def put_new(self, key: str, data: bytes) -> None:
        self._change("write", key, lambda: self.inner.put_new(key, data))

    def _change(self, operation: str, key: str, act: Callable[[], None]) -> None:
        fault = self._begin(operation, key)
        if fault is Fault.AFTER:
            act()
        self._fail(fault, operation, key)
        act()
