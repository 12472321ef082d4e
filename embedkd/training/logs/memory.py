"""What loggers call a run and how far they are, kept in its folder, so that a resumed run shows no point twice."""

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from embedkd.errors import TrainingError
from embedkd.rundir import RunDir, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from embedkd.training.logs.logger import Record


@dataclass(frozen=True)
class Known:
    """What is known of one logger.

    Attributes:
        identity: Its name for the run.
        last: Kind of a record to the last step of it that was handed over.
        active: Whether the latest part of the run used it.
    """

    identity: str | None = None
    last: "Mapping[str, int]" = field(default_factory=dict)
    active: bool = False


class Memory:
    """logs.json of a run folder.

    Whoever was active in the latest part was handed every line that metrics.jsonl has now, before it is cut back to the
    checkpoint, and never more.

    Args:
        run: The folder.
        records: The lines of its metrics.jsonl.

    Raises:
        TrainingError: The file is not what a run writes.
    """

    def __init__(self, run: RunDir, records: "Iterable[Record]") -> None:
        self._path = run.logs
        self._known: dict[str, Known] = {}
        if not self._path.exists():
            return
        handed: dict[str, int] = {}
        for record in records:
            handed[record["kind"]] = max(int(record["step"]), handed.get(record["kind"], 0))
        for name, known in self._read().items():
            both = {kind: max(handed.get(kind, 0), known.last.get(kind, 0)) for kind in {*handed, *known.last}}
            self._known[name] = replace(known, last=both) if known.active else known

    def of(self, name: str) -> Known:
        """What is known of a logger."""
        return self._known.get(name, Known())

    def keep(self, identities: "Mapping[str, str]") -> None:
        """Write what is known now.

        Args:
            identities: Of the loggers of this part of the run.

        Raises:
            StorageError: The file could not be written.
        """
        for name in {*self._known, *identities}:
            known = self.of(name)
            self._known[name] = replace(known, identity=identities.get(name, known.identity), active=name in identities)
        if self._known:
            write_json(self._path, {name: asdict(known) for name, known in sorted(self._known.items())})

    def _read(self) -> dict[str, Known]:
        document = read_json(self._path)
        try:
            read = {name: Known(**entry) for name, entry in document.items()}
            fits = all(
                isinstance(known.identity, str) and all(isinstance(step, int) for step in known.last.values())
                for known in read.values()
            )
        except (TypeError, AttributeError):
            fits = False
        if not fits:
            raise TrainingError(f"{self._path} is not what a run writes; remove it, and loggers take this as a new run")
        return read
