"""evaluation.json of a run folder: written by the stage, read by whoever shows it."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from embedkd.errors import TrainingError, printable
from embedkd.evaluation.details import Details
from embedkd.evaluation.estimate import Estimate
from embedkd.rundir import RunDir, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1
_SHOWN = 200  # characters of what a file that is none holds


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one student.

    Attributes:
        weights_blake2b: Of the student's weights; another digest than in student.json says that the run went on since.
        data: The shards, as they were named.
        split: Which of their samples.
        rows: Labelled samples that were classified.
        bank_rows: Training samples that could vote for k-NN; None without it.
        left_out: Samples that could not be used, by reason.
        device: What the student ran on.
        metrics: Name to value and interval; `METRICS` tells what each is.
        notes: What could not be measured and why, a line each.
        details: Tables beside the numbers.
    """

    weights_blake2b: str
    data: str
    split: str
    rows: int
    bank_rows: int | None
    left_out: "Mapping[str, int]"
    device: str
    metrics: "Mapping[str, Estimate]"
    notes: tuple[str, ...] = ()
    details: Details = field(default_factory=Details)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; ``from_json`` gives an equal evaluation back."""
        document = {"format": FORMAT, **asdict(self), "notes": list(self.notes), "details": self.details.to_json()}
        return {name: value for name, value in document.items() if name not in {"notes", "details"} or value}

    @classmethod
    def from_json(cls, document: "Mapping[str, Any]") -> "Evaluation":
        """The inverse of ``to_json``.

        Raises:
            TrainingError: It is of another format, or a field is missing or unknown.
        """
        facts = dict(document)
        try:
            if facts.pop("format") != FORMAT:
                came = printable(repr(document["format"]), _SHOWN)
                raise TrainingError(f"expected an evaluation of format {FORMAT}, got {came}")
            facts["metrics"] = {str(name): Estimate(**value) for name, value in facts["metrics"].items()}
            facts["notes"] = _lines(facts.get("notes", []))
            facts["details"] = Details.from_json(facts.get("details", {}))
            return cls(**facts)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise TrainingError(f"this is no evaluation of a student: {printable(str(error), _SHOWN)}") from error


def write_evaluation(run: RunDir, evaluation: Evaluation) -> None:
    """Replace a run's evaluation.

    Raises:
        StorageError: It could not be written; the old one is as it was.
    """
    write_json(_path(run), evaluation.to_json())


def read_evaluation(run: RunDir) -> Evaluation | None:
    """A run's evaluation; None before the first.

    Raises:
        TrainingError: There is a file that is none.
    """
    path = _path(run)
    if not path.exists():
        return None
    try:
        return Evaluation.from_json(read_json(path))
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}; evaluate the run again") from error


def _lines(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("notes that are no list")
    return tuple(map(str, value))


def _path(run: RunDir) -> "Path":
    return run.path / "evaluation.json"
