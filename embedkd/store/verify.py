"""Is a store whole? Every committed object is read and compared with what its commit says."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import EmbedKDError
from embedkd.records import RowStatus
from embedkd.store.classes import set_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedkd.store.view import TeacherView

MAX_PROBLEMS = 20


@dataclass(frozen=True)
class OutputCheck:
    """What reading all of one output found.

    Attributes:
        output: Its name.
        slots: Slots of the store.
        committed: Slots with a commit.
        rows: Rows of these that could be read.
        usable: Rows with an embedding.
        class_sets: Class sets that could be read.
        problems: One line each, at most MAX_PROBLEMS; empty where everything is as it was committed.
    """

    output: str
    slots: int
    committed: int
    rows: int
    usable: int
    class_sets: int
    problems: tuple[str, ...]


def check_output(view: "TeacherView", output: str, on_slot: "Callable[[], None]" = lambda: None) -> OutputCheck:
    """Read every committed slot and every class set of an output.

    Objects are compared with their commit by length, trailer and crc32c, rows with their status and keys with their
    digest. A slot without a commit is no problem: it was never finished.

    Args:
        view: The teacher's part of the store.
        output: One of its outputs.
        on_slot: Called after each slot.
    """
    committed = rows = usable = 0
    problems: list[str] = []
    for slot in view.store.slots:
        try:
            if view.commit(slot, output) is not None:
                committed += 1
                read = view.read(slot, output)
                rows += len(read.status)
                usable += int((read.status == RowStatus.OK).sum())
        except EmbedKDError as error:
            problems.append(f"slot {slot.index}: {error}")
        on_slot()
    names = set_names(view, output)
    for name in names:
        try:
            view.class_set(name, output)
        except EmbedKDError as error:
            problems.append(f"class set {name}: {error}")
    sets = len(names) - sum(problem.startswith("class set") for problem in problems)
    return OutputCheck(output, len(view.store.slots), committed, rows, usable, sets, tuple(problems[:MAX_PROBLEMS]))
