"""Somebody who watches a run, and interrupts it."""

import os
import signal

from embedkd.progress import Silent


class Watch(Silent):
    """Remembers lines, and sends a signal to this process after a step."""

    def __init__(self, signal_at: int = 0, number: signal.Signals = signal.SIGTERM) -> None:
        self.lines: list[str] = []
        self.steps = 0
        self._signal_at = signal_at
        self._number = number

    def advance(self, count: int, note: str = "") -> None:
        self.steps += count
        if self.steps == self._signal_at:
            os.kill(os.getpid(), self._number)

    def line(self, text: str) -> None:
        self.lines.append(text)
