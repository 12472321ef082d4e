"""Reading ahead in threads."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(read: "Callable[[T], R]", items: "Sequence[T]", depth: int = 1) -> "Iterator[R]":
    """What is read of each item, in order, while the next ones are being read.

    In a process that was forked in the middle, where the threads are not, the rest is read without them.

    >>> list(read_ahead(str.upper, ["a", "b", "c"], depth=2))
    ['A', 'B', 'C']

    Args:
        read: Called once an item, in a thread; what it raises is raised when its turn comes.
        items: The items.
        depth: How many are read ahead, each in a thread.
    """
    pool, began_in = ThreadPoolExecutor(depth, "embedkd-read"), os.getpid()
    waiting = deque(pool.submit(read, item) for item in items[:depth])
    try:
        for at, item in enumerate(items):
            if os.getpid() != began_in:
                yield read(item)
                continue
            result = waiting.popleft().result()
            if at + depth < len(items):
                waiting.append(pool.submit(read, items[at + depth]))
            yield result
    finally:
        if os.getpid() == began_in:
            pool.shutdown(wait=False, cancel_futures=True)
