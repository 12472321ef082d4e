"""Progress on a terminal as a bar with rate and time left, elsewhere as plain lines now and then."""

import sys
import time
from functools import cached_property
from typing import TYPE_CHECKING

from embedkd.cli.output import say
from embedkd.errors import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from embedkd.progress import Progress

_PLAIN_EVERY_S = 10.0


def watcher() -> "Progress":
    """The right watcher for where standard error goes."""
    return Bars() if sys.stderr.isatty() else Lines()


class Bars:
    """A live bar, one step at a time."""

    _task: "TaskID | None" = None

    def __reduce__(self) -> "tuple[type[Bars], tuple[()]]":
        """A watcher that goes along to another process starts afresh on the same terminal."""
        return Bars, ()

    @cached_property
    def _console(self) -> "Console":
        from rich.console import Console  # rich takes 0.1 s; --help does without it

        return Console(stderr=True, highlight=False)

    def begin(self, task: str, total: int, unit: str) -> None:
        """See `Progress.begin`."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._started = time.monotonic()
        self._unit = unit
        self._done = 0
        self._bar = Progress(
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>7.1f} " + unit + "/s"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
        )
        self._bar.start()
        self._task = self._bar.add_task(printable(task), total=total, note="", rate=0.0)

    def advance(self, count: int, note: str = "") -> None:
        """See `Progress.advance`."""
        if self._task is not None:
            self._done += count
            rate = self._done / max(time.monotonic() - self._started, 1e-9)
            self._bar.update(self._task, advance=count, rate=rate)
            if note:
                self._bar.update(self._task, note=printable(note))

    def end(self) -> None:
        """See `Progress.end`."""
        if self._task is not None:
            self._bar.stop()
            self._task = None

    def line(self, text: str) -> None:
        """See `Progress.line`."""
        self._console.print(printable_lines(text), markup=False, soft_wrap=True)


class Lines:
    """A line at the beginning, every ten seconds, and at the end of a step."""

    def begin(self, task: str, total: int, unit: str) -> None:
        """See `Progress.begin`."""
        self._task, self._total, self._unit = task, total, unit
        self._done, self._note = 0, ""
        self._started = self._printed = time.monotonic()

    def advance(self, count: int, note: str = "") -> None:
        """See `Progress.advance`."""
        self._done += count
        self._note = note or self._note
        if time.monotonic() - self._printed >= _PLAIN_EVERY_S:
            self._print()

    def end(self) -> None:
        """See `Progress.end`."""
        if self._done:
            self._print()

    def line(self, text: str) -> None:
        """See `Progress.line`."""
        say(text, err=True)

    def _print(self) -> None:
        self._printed = time.monotonic()
        rate = self._done / max(self._printed - self._started, 1e-9)
        left_s = (self._total - self._done) / max(rate, 1e-9)
        note = f", {self._note}" if self._note else ""
        self.line(f"{self._task}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {left_s:.0f} s left{note}")
