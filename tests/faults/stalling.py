"""Actions that stop before a chosen write, for as long as one likes, and then go on or die."""

import threading
from collections.abc import Callable

from embedkd.errors import EmbedKDError
from embedkd.storage import Storage
from tests.faults.interleaving import WRITES, Hooked

WAIT_S = 60.0


class Stalled:
    """An action in a thread of its own; one thread runs at a time, so what happens is a function of the choices.

    Args:
        storage: What it works on.
        action: What it does with that.
        stop_at: Before which write it stops, from 0.

    Attributes:
        ended: Whether it came to its end.
    """

    def __init__(self, storage: Storage, action: Callable[[Storage], object], stop_at: int) -> None:
        self.ended = False
        self._left = stop_at
        self._stopped, self._wake = threading.Event(), threading.Event()
        self._dead = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(action, Hooked(storage, self._hook)), daemon=True)
        self._thread.start()
        assert self._stopped.wait(WAIT_S)

    def _hook(self, verb: str, _key: str) -> None:
        if verb in WRITES:
            self._left -= 1
            if self._left == -1:
                self._stopped.set()
                assert self._wake.wait(WAIT_S)
            if self._dead:
                raise SystemExit

    def _run(self, action: Callable[[Storage], object], storage: Storage) -> None:
        try:
            action(storage)
        except BaseException as error:
            self._error = error
        self.ended = True
        self._stopped.set()

    def wake(self) -> None:
        """Let it go on to its end.

        Raises:
            BaseException: What it raised.
        """
        self._wake.set()
        self._thread.join(WAIT_S)
        assert self.ended
        if self._error is not None:
            raise self._error

    def die(self) -> None:
        """Let it end without another write."""
        self._dead = True
        try:
            self.wake()
        except (SystemExit, EmbedKDError):
            return
