"""Teachers by name, without a catalogue; and a watcher that remembers."""

from dataclasses import replace

from embedkd.config import Config
from embedkd.progress import Silent
from embedkd.teachers import LoadOptions
from tests.tiny import SPEC, TEXT_SPEC, TextTeacher, TinyTeacher

ONE, OTHER = SPEC.name, TEXT_SPEC.name


class Watch(Silent):
    """Remembers lines and totals."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: dict[str, tuple[int, str]] = {}
        self.done = 0

    def begin(self, task: str, total: int, unit: str) -> None:
        self.steps[task] = (total, unit)
        self.done = 0

    def advance(self, count: int, note: str = "") -> None:
        self.done += count

    def line(self, text: str) -> None:
        self.lines.append(text)


class Zoo:
    """Stands in for the catalogue: a teacher a name, and what it was asked for."""

    def __init__(self) -> None:
        self.teachers: dict[str, TinyTeacher] = {ONE: TinyTeacher(), OTHER: TextTeacher()}
        self.options: list[LoadOptions] = []

    def load(self, name: str, options: LoadOptions) -> TinyTeacher:
        self.options.append(options)
        return self.teachers[name]


def changed(config: Config, **facts: object) -> Config:
    return replace(config, precompute=replace(config.precompute, **facts))  # type: ignore[arg-type]
