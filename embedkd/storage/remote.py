"""What all remote storages have in common: reading, with limits and repeats, and errors that tell no secrets.

Nothing that a library or a server says is passed on in their words, which may hold credentials: errors are raised
outside of ``except``, so that no traceback shows what they came from.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeVar

from embedkd.errors import ObjectMissingError, StorageError
from embedkd.storage.download import Body, Download
from embedkd.storage.failures import Failure, Fault
from embedkd.storage.keys import check_range
from embedkd.storage.retries import Limits, Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedkd.storage.location import Location

_T = TypeVar("_T")


class RemoteReader(ABC):
    """Objects that are somewhere else, for reading; safe for threads.

    Args:
        location: The root.
        limits: What an operation may cost.
    """

    def __init__(self, location: "Location", limits: Limits) -> None:
        self._location = location
        self._limits = limits

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def url(self) -> str:
        """The root, as a person would type it."""
        return self._location.url

    @abstractmethod
    def path_of(self, key: str) -> str:
        """The object's path as its server wants it.

        Raises:
            StorageError: There can be no such object, or this process cannot ask.
        """

    @abstractmethod
    def open_body(self, path: str, start: int, stop: int | None) -> Body:
        """See `Source`."""

    @abstractmethod
    def size_of(self, path: str) -> int:
        """Bytes of an object, by one request."""

    @abstractmethod
    def find(self, suffix: str, limit: int) -> list[tuple[str, int]]:
        """Keys at any depth that end in a suffix, with the length of each object in bytes, in order.

        Raises:
            ListingError: There is no listing.
            StorageError: It cannot be listed, or lists more than ``limit`` objects, whatever their suffix.
        """

    @abstractmethod
    def failure_of(self, error: BaseException) -> Failure:
        """See `Source`."""

    def get(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        """See `Storage.get`."""
        taken = bytearray()
        for chunk in self.stream(key):
            taken += chunk
            if limit_bytes is not None and len(taken) > limit_bytes:
                del taken[limit_bytes + 1 :]
                break
        return bytes(taken)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Storage.get_range`."""
        check_range(start, length)
        return b"".join(self._download(key, start, start + length))

    def stream(self, key: str, start: int = 0) -> "Iterator[bytes]":
        """See `Storage.stream`."""
        return self._download(key, start, None)

    def _download(self, key: str, start: int, stop: int | None) -> "Iterator[bytes]":
        download = Download(self, self.path_of(key), self._limits, start, stop)
        yield from download
        if download.failure is not None:
            raise self.error("read", key, download.failure)

    def size(self, key: str) -> int:
        """See `Storage.size`."""
        found = self._size(key)
        if found is None:
            raise ObjectMissingError(f"{self.url} has no object {key}")
        return found

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        return self._size(key) is not None

    def _size(self, key: str) -> int | None:
        path = self.path_of(key)
        size = self.asked(lambda: self.size_of(path))
        if not isinstance(size, Failure):
            return size
        if size.fault is Fault.MISSING:
            return None
        raise self.error("look at", key, size)

    def asked(self, action: "Callable[[], _T]", attempts: int | None = None) -> "_T | Failure":
        """What an idempotent request gives, repeated where that can help."""
        patience = Patience(self._limits)
        while True:
            try:
                return action()
            except BaseException as error:
                failure = self.failure_of(error)
            if failure.fault is not Fault.TRANSIENT or attempts == patience.failed + 1 or not patience.again():
                return failure

    def error(self, verb: str, key: str, failure: Failure, failed: int = 0) -> StorageError:
        """A failure as the error that a person reads."""
        where = f"{self.url}/{key}".rstrip("/")
        if failure.fault is Fault.MISSING and verb == "read":
            return ObjectMissingError(f"{self.url} has no object {key}")
        if failure.fault is Fault.MISSING:
            return StorageError(f"cannot {verb} {where}: there is no such bucket or address; create it")
        tries = f" ({failed} times)" if failed > 1 else ""
        return StorageError(f"cannot {verb} {where}: {failure.says}{tries}")
