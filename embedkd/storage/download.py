"""One object's bytes in order, however often the connection breaks on the way."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from embedkd.storage.failures import Failure, Fault
from embedkd.storage.retries import Limits, Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

_PROGRESS_BYTES = 1 << 17
_CHANGED = Failure(Fault.PERMANENT, "it was replaced while it was read; read it again")
_SHORT = Failure(Fault.TRANSIENT, "the body was cut")


@dataclass(frozen=True)
class Body:
    """The answer to one request for bytes.

    Attributes:
        chunks: Its bytes, in chunks that memory can hold.
        start: Which byte of the object is the first; less than was asked for where a server knows no ranges.
        size: Bytes of the whole object.
        identity: Differs where the object is another one.
        close: Lets go of the connection.
    """

    chunks: "Iterator[bytes]"
    start: int
    size: int
    identity: tuple[Any, ...]
    close: "Callable[[], None]" = lambda: None


class Source(Protocol):
    """What can be asked for bytes."""

    def open_body(self, path: str, start: int, stop: int | None) -> Body:
        """Ask for the bytes from ``start`` to before ``stop``, or to the end."""
        ...

    def failure_of(self, error: BaseException) -> Failure:
        """What an error of a request means; any other error is raised again."""
        ...


class Download:
    """Iterates over the chunks of an object, or of a range of it; each byte comes once.

    After a break it goes on from the next byte.

    Args:
        source: Where the object is.
        path: Its path there.
        limits: When to give up.
        start: The first byte.
        stop: One behind the last byte; None for the object's end.

    Attributes:
        failure: Why the iteration ended too early; None where it did not. It is not raised, see `failures`.
    """

    def __init__(self, source: Source, path: str, limits: Limits, start: int, stop: int | None) -> None:
        self._source = source
        self._path = path
        self._patience = Patience(limits)
        self._position = start
        self._renewed = start
        self._stop = stop
        self._identity: tuple[Any, ...] | None = None
        self.failure: Failure | None = None

    def __iter__(self) -> "Iterator[bytes]":
        while True:
            failure = yield from self._attempt()
            if failure is None or (failure.fault is Fault.PAST_END and self._identity is None):
                return  # an object that ends before the range has no bytes there
            if failure.fault is not Fault.TRANSIENT or not self._patience.again():
                self.failure = failure
                return

    def _attempt(self) -> "Generator[bytes, None, Failure | None]":
        """One request; returns why it ended too early."""
        body = self._open()
        if isinstance(body, Failure):
            return body
        try:
            return (yield from self._take(body))
        finally:
            body.close()

    def _take(self, body: Body) -> "Generator[bytes, None, Failure | None]":
        if self._identity not in {None, body.identity}:
            return _CHANGED
        self._identity = body.identity
        end = body.size if self._stop is None else min(self._stop, body.size)
        skip = self._position - body.start
        while self._position < end:
            chunk = self._next(body.chunks)
            if isinstance(chunk, Failure):
                return chunk
            wanted = chunk[skip : skip + end - self._position]
            skip = max(0, skip - len(chunk))
            self._position += len(wanted)
            if self._position - self._renewed >= _PROGRESS_BYTES:
                self._patience.renew()
                self._renewed = self._position
            if wanted:
                yield wanted
        return None

    def _open(self) -> Body | Failure:
        try:
            return self._source.open_body(self._path, self._position, self._stop)
        except BaseException as error:
            return self._source.failure_of(error)

    def _next(self, chunks: "Iterator[bytes]") -> bytes | Failure:
        try:
            return next(chunks, None) or _SHORT
        except BaseException as error:
            return self._source.failure_of(error)
