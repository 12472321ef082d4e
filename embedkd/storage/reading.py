"""An object as a file that is read once, from its beginning: what tar readers want."""

import io
from typing import TYPE_CHECKING

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
