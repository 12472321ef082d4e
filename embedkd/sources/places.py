"""Where the samples of a tar lie, found while its bytes pass by."""

from collections import deque

from embedkd.records import Place, crc32c


class Places:
    """Turns members, in the order of the tar, into places of samples.

    No byte is kept that belongs to a member whose headers were read, so memory does not depend on what is in the tar.

    Attributes:
        found: Key and place of each sample that ended, oldest first; for the caller to take.
    """

    def __init__(self) -> None:
        self.found: deque[tuple[str, Place]] = deque()
        self._waiting = bytearray()  # bytes from `_summed` on
        self._summed = 0
        self._known = 0  # end of the last member: what is before it is summed as it comes
        self._crc = 0  # of the bytes from `_start` to `_summed`
        self._key: str | None = None
        self._inside = False  # whether the last member belongs to that sample
        self._start = 0
        self._end: tuple[int, int] = (0, 0)  # of the sample so far, and the checksum there

    def take(self, data: bytes) -> None:
        """The next bytes of the tar; they may be ahead of the members."""
        self._waiting += data
        self._sum(self._known)

    def member(self, key: str | None, start: int, end: int) -> None:
        """The next member. All bytes before it, and its headers, were taken.

        Args:
            key: Of its sample; None where it belongs to none.
            start: Offset of its first header in the tar.
            end: Offset behind its padding.
        """
        self._note_end()
        if key is not None and key != self._key:
            self._finish()
            self._sum(start)
            self._key, self._start, self._crc = key, start, 0
        self._inside = key is not None
        self._known = end
        self._sum(end)

    def close(self) -> None:
        """There are no more members; all bytes of the last one were taken."""
        self._note_end()
        self._finish()

    def _note_end(self) -> None:
        if self._inside:
            self._end = self._known, self._crc

    def _finish(self) -> None:
        if self._key is not None:
            end, crc = self._end
            self.found.append((self._key, Place(self._start, end - self._start, crc)))

    def _sum(self, end: int) -> None:
        """Let the checksum go on to an offset, as far as the bytes are there."""
        count = min(end - self._summed, len(self._waiting))
        if count > 0:
            self._crc = crc32c(bytes(self._waiting[:count]), self._crc)
            del self._waiting[:count]
            self._summed += count
