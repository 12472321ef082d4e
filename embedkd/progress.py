"""What a long step tells whoever watches; the command line draws it, a library caller may stay silent."""

from typing import Protocol


class Progress(Protocol):
    """A watcher of one long step at a time."""

    def begin(self, task: str, total: int, unit: str) -> None:
        """A step starts: its name, how many units it has, and what a unit is ("images")."""
        ...

    def advance(self, count: int, note: str = "") -> None:
        """So many more units are done; ``note`` replaces the last one ("loss 1.23")."""
        ...

    def end(self) -> None:
        """The step is over."""
        ...

    def line(self, text: str) -> None:
        """One line that stays."""
        ...


class Silent:
    """A watcher that looks away."""

    def begin(self, task: str, total: int, unit: str) -> None:
        """Ignored."""

    def advance(self, count: int, note: str = "") -> None:
        """Ignored."""

    def end(self) -> None:
        """Ignored."""

    def line(self, text: str) -> None:
        """Ignored."""
