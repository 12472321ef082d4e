"""Ctrl-C and SIGTERM as a wish that the loop grants between two steps."""

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_wish() -> "Iterator[Callable[[], bool]]":
    """Within it the first SIGINT or SIGTERM only sets what the given call answers; a second one acts as before.

    Outside the main thread, where Python takes no signals, the answer stays no.
    """
    wish = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wish.is_set
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: "FrameType | None") -> None:
        wish.set()
        restore()

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield wish.is_set
    finally:
        restore()
