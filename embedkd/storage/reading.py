"""An object as a file that is read once, from its beginning, as tar readers want it; and ranges of it, in any order."""

import io
import os
from typing import TYPE_CHECKING

from embedkd.errors import StorageError
from embedkd.storage.files import open_regular
from embedkd.storage.keys import check_range
from embedkd.storage.objects import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedkd.storage.objects import Storage

_BUFFER_BYTES = 1 << 18


def open_object(storage: "Storage", key: str, start: int = 0) -> io.BufferedReader:
    """The bytes of an object from ``start`` on; broken connections are mended on the way, see `Storage.stream`.

    Memory is bounded by a chunk. Errors of the storage come from the reads, the first of them too.
    """
    return io.BufferedReader(_Chunks(storage.stream(key, start)), _BUFFER_BYTES)


class _Chunks(io.RawIOBase):
    """Chunks of an iterator as a raw stream."""

    def __init__(self, chunks: "Iterator[bytes]") -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        """Fill the buffer as far as one chunk does; 0 at the end."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        taken = min(len(buffer), len(self._left))
        buffer[:taken] = self._left[:taken]
        self._left = self._left[taken:]
        return taken

    def close(self) -> None:
        """Let go of the connection."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
        super().close()


class ObjectRanges:
    """Ranges of one object, in any order; safe for threads.

    Attributes:
        size_bytes: Its length when it was opened.
    """

    def __init__(self, storage: "Storage", key: str) -> None:
        self._storage = storage
        self._key = key
        self.size_bytes = storage.size(key)

    def read(self, start: int, length: int) -> bytes:
        """See `Storage.get_range`."""
        return self._storage.get_range(self._key, start, length)


class FileRanges(ObjectRanges):
    """The same of a local file, which stays open: a file that takes its name later is another one."""

    def __init__(self, storage: LocalStorage, key: str) -> None:
        self._path = storage.path(key)
        try:
            with open_regular(self._path) as (file, self.size_bytes):
                self._handle = os.dup(file.fileno())  # bare, since a file object complains about being collected
        except OSError as error:
            raise storage.read_error(key, error) from error

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def read(self, start: int, length: int) -> bytes:
        """See `Storage.get_range`."""
        check_range(start, length)
        try:
            return os.pread(self._handle, length, start)
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror}") from error


def open_ranges(storage: "Storage", key: str) -> ObjectRanges:
    """Ranges of an object.

    Raises:
        ObjectMissingError: There is no such object.
        StorageError: It cannot be read.
    """
    return FileRanges(storage, key) if isinstance(storage, LocalStorage) else ObjectRanges(storage, key)
