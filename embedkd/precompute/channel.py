"""A bounded queue between two threads that can be closed, so that nobody waits for ever."""

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - it ends a thread and is no fault
    """The channel was closed; nobody is interested in its items any more."""


class Channel(Generic[T]):
    """Items in order, at most so many at a time.

    Args:
        limit: Items that may wait; who puts more waits himself.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: T) -> None:
        """Add an item, once there is room.

        Raises:
            Closed: The channel was closed before.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._limit)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T:
        """Take the oldest item, once there is one.

        Raises:
            Closed: The channel was closed; what was in it is lost.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._items))
            if self._closed:
                raise Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Wake everybody who waits."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


class Flow(Generic[T]):
    """The items of one thread for another, their end, and the error that ended them, all in order.

    Args:
        limit: Items that may wait.
    """

    def __init__(self, limit: int) -> None:
        self._channel: Channel[T | BaseException | None] = Channel(limit)

    def fill(self, items: "Generator[T, None, None]") -> None:
        """Pass on what a generator gives; the body of a thread. The generator is closed in any case."""
        ended: BaseException | None = None
        try:
            for item in items:
                self._channel.put(item)
        except Closed:
            return
        except BaseException as error:  # raised again where the items are wanted
            ended = error
        finally:
            items.close()
        try:
            self._channel.put(ended)
        except Closed:
            return

    def __iter__(self) -> "Iterator[T]":
        while (item := self._channel.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """End both sides."""
        self._channel.close()
