"""What a logger is, and how a broken one costs a line and not the run."""

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from embedkd.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embedkd.rundir import RunDir

Record: TypeAlias = "Mapping[str, Any]"
Outcome = Literal["finished", "stopped", "failed"]

_CLOSE_S = 60.0
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class Start:
    """What a logger begins with.

    Attributes:
        run: The run folder.
        config: Dotted key to value, of all sections.
        identity: What this logger called the run in an earlier part; None when it has not seen it yet.
        records: All lines of metrics.jsonl that stay, of earlier parts of the run.
        last: Kind of a record to the last step of it that this logger was handed, steps that will be repeated included.
        began_s: When the run would have begun if all its parts lay side by side, in seconds since 1970.
    """

    run: "RunDir"
    config: "Mapping[str, object]"
    identity: str | None
    records: "Sequence[Record]"
    last: "Mapping[str, int]"
    began_s: float


class Logger(Protocol):
    """Takes the records of metrics.jsonl somewhere else."""

    identity: str | None  # kept in the run folder, for the next part of the run

    def extend(self, records: "Sequence[Record]") -> None:
        """Take records, in the order of their steps."""
        ...

    def close(self, outcome: Outcome) -> None:
        """No more will come."""
        ...


class Guarded:
    """A logger whose first failure is told in a line, and is its last.

    Args:
        name: Of the logger.
        logger: Any.
        say: Takes the line.
    """

    def __init__(self, name: str, logger: Logger, say: "Callable[[str], None]") -> None:
        self._name = name
        self._logger: Logger | None = logger
        self._say = say

    def extend(self, records: "Sequence[Record]") -> None:
        """See `Logger.extend`; raises nothing."""
        self._try(lambda logger: logger.extend(records))

    def close(self, outcome: Outcome) -> None:
        """See `Logger.close`; raises nothing."""
        self._try(lambda logger: logger.close(outcome))

    def _try(self, action: "Callable[[Logger], None]") -> None:
        if self._logger is None:
            return
        try:
            action(self._logger)
        except Exception as error:  # whatever a foreign library, its server or a full disk comes up with
            self._logger = None
            self._say(
                f"warning: --log {self._name} failed and is left out from here on "
                f"({said(error)}); metrics.jsonl has every line"
            )


class Background:
    """A logger in a thread of its own, so that a slow server holds up no step.

    Args:
        logger: Its calls come from that thread, one at a time.
        say: Takes a line if it does not finish in time.
    """

    def __init__(self, logger: Guarded, say: "Callable[[str], None]") -> None:
        self._logger = logger
        self._say = say
        self._queue: queue.SimpleQueue[Record | Outcome] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="embedkd-log", daemon=True)
        self._thread.start()

    def extend(self, records: "Sequence[Record]") -> None:
        """See `Logger.extend`; does not wait."""
        for record in records:
            self._queue.put(record)

    def close(self, outcome: Outcome) -> None:
        """See `Logger.close`; waits a minute at most."""
        self._queue.put(outcome)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            self._say(f"warning: a logger took more than {_CLOSE_S:.0f} s to finish and is left behind")

    def _work(self) -> None:
        while True:
            waiting = [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            records = [entry for entry in waiting if not isinstance(entry, str)]
            if records:
                self._logger.extend(records)
            if isinstance(waiting[-1], str):
                self._logger.close(waiting[-1])
                return


def said(error: BaseException) -> str:
    """The first line of an error of a foreign library, harmless and short."""
    return printable(str(error).strip().partition("\n")[0] or type(error).__name__, _SHOWN_CHARACTERS)


def scalars(record: Record) -> dict[str, float]:
    """The numbers of a record by the names that they have in every logger: ``train/loss``, ``validation/top1``, ...

    >>> scalars({"kind": "train", "step": 3, "loss": 0.5, "terms": {"mse": 2.0}, "elapsed_s": 1.5})
    {'train/loss': 0.5, 'train/terms/mse': 2.0}
    """
    return dict(_numbers({k: v for k, v in record.items() if k not in {"step", "rows", "elapsed_s"}}, record["kind"]))


def _numbers(value: "Mapping[str, Any]", prefix: str) -> "list[tuple[str, float]]":
    found = []
    for name, entry in value.items():
        if isinstance(entry, dict):
            found += _numbers(entry, f"{prefix}/{name}")
        elif isinstance(entry, int | float) and not isinstance(entry, bool):
            found.append((f"{prefix}/{name}", float(entry)))
    return found
