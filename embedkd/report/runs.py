"""What a run folder says of itself, finished or not, read without a word changed."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkd.errors import TrainingError
from embedkd.evaluation import Details, Estimate, Evaluation, proportion, read_evaluation
from embedkd.report.members import CONFIG, EVALUATION, LINES, RESULT, STUDENT, check_members
from embedkd.rundir import RunDir, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedkd.report.members import Members

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run. Runs of other versions may lack anything but a config; what is not there is None or empty.

    Attributes:
        name: Of its folder, with as much of the path before it as tells it from the others.
        config: The resolved config.
        environment: Versions and hardware.
        result: The outcome; None while the run is not finished.
        student: Card of the best student so far.
        evaluation: What was measured of that very student.
        outdated: Whether there is an evaluation, but of an earlier student.
        failed: Whether a loss that was not finite stopped it.
        steps: Lines of the metrics, one a logged step.
        validations: Likewise, one a validation.
    """

    name: str
    config: Record
    environment: Record
    result: Record | None
    student: Record | None
    evaluation: Evaluation | None
    outdated: bool
    failed: bool
    steps: "Sequence[Record]"
    validations: "Sequence[Record]"

    @property
    def finished(self) -> bool:
        """Whether its outcome is there."""
        return self.result is not None

    @cached_property
    def losses(self) -> "Mapping[str, float]":
        """Active losses and their weights."""
        weights = self.fact("losses") or self.config.get("losses") or {}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def parameters(self) -> int | None:
        """Of the student."""
        number: int | None = self.fact("parameters") or (self.student or {}).get("parameters")
        return number

    @property
    def val_top1(self) -> float | None:
        """The best share of right answers on the validation split so far."""
        best: float | None = self._best_validation.get("top1", self.fact("val_top1"))
        return best

    @property
    def best_epoch(self) -> int | None:
        """The epoch that had it."""
        epoch: int | None = self._best_validation.get("epoch", self.fact("best_epoch"))
        return epoch

    @property
    def _best_validation(self) -> Record:
        return max(self.validations, key=lambda line: float(line["top1"]), default={})

    @property
    def test_top1(self) -> Estimate | None:
        """Share of right answers on the test split: as evaluated, or as the run itself counted them at its end."""
        if self.evaluation is not None and self.evaluation.split == "test":
            return self.evaluation.metrics.get("top1")
        share, rows = self.fact("test_top1"), self.fact("test_rows")
        return None if share is None or not rows else proportion(round(share * rows), rows)

    @property
    def test_rows(self) -> int | None:
        """Labelled samples of the test split."""
        evaluated = self.evaluation is not None and self.evaluation.split == "test"
        return self.evaluation.rows if evaluated and self.evaluation is not None else self.fact("test_rows")

    def measured(self, metric: str) -> Estimate | None:
        """A metric of the evaluation on the test split."""
        if self.evaluation is None or self.evaluation.split != "test":
            return None
        return self.evaluation.metrics.get(metric)

    @property
    def details(self) -> Details:
        """Tables of the evaluation on the test split; empty without one."""
        evaluation = self.evaluation
        return Details() if evaluation is None or evaluation.split != "test" else evaluation.details

    def class_name(self, label: int) -> str:
        """What a class is called, as far as the student's card knows."""
        names = (self.student or {}).get("class_names") or ()
        return names[label] if label < len(names) else f"class {label}"

    @property
    def elapsed_s(self) -> float | None:
        """Wall time of all its parts."""
        return self.fact("elapsed_s") or max(
            (line["elapsed_s"] for line in (*self.steps, *self.validations)), default=None
        )

    @property
    def steps_done(self) -> int:
        """The last step that was logged, or all of a finished run."""
        return self.fact("steps") or max((line["step"] for line in self.steps), default=0)

    @property
    def steps_per_s(self) -> float | None:
        """Over the whole run, validation and checkpoints included."""
        return self.steps_done / self.elapsed_s if self.elapsed_s and self.steps_done else None

    @property
    def progress(self) -> str:
        """How far an unfinished run is."""
        epochs = self.setting("train", "epochs")
        at = max((line["epoch"] for line in self.steps), default=0)
        return f"in epoch {at} of {epochs}" if at else "before its first step"

    def fact(self, name: str) -> Any:
        """One fact of the outcome; None while there is none."""
        return (self.result or {}).get(name)

    @property
    def targets(self) -> tuple[str, ...]:
        """Stores that it learnt from; of an earlier version one at most."""
        entries = self.setting("train", "targets") or ()
        return (entries,) if isinstance(entries, str) else tuple(entries)

    def setting(self, section: str, key: str) -> Any:
        """One value of the config."""
        return (self.config.get(section) or {}).get(key)


def read_runs(paths: "Sequence[Path]") -> tuple[Run, ...]:
    """Read run folders, each with a name of its own.

    Raises:
        TrainingError: A folder holds no run, the same folder is named twice, or a file in it cannot be read.
    """
    if not paths:
        raise TrainingError("expected run folders to report on, got no run; name the folders that embedkd train wrote")
    resolved = [path.resolve() for path in paths]
    for path in resolved:
        if resolved.count(path) > 1:
            raise TrainingError(f"the run {path} is named twice; name each run once")
    return tuple(read_run(path, name) for path, name in zip(paths, distinct_names(resolved), strict=True))


def read_run(path: Path, name: str) -> Run:
    """Read one run folder.

    Raises:
        TrainingError: It holds no run, or a file in it cannot be read.
    """
    folder = RunDir(path)
    student = _checked(folder.student, STUDENT) if folder.student.exists() else None
    evaluation = read_evaluation(folder)
    if evaluation is not None:
        check_members(evaluation.to_json(), EVALUATION, path)
    current = evaluation is not None and evaluation.weights_blake2b == (student or {}).get("weights_blake2b")
    lines = folder.read_metrics()
    for line in lines:
        check_members(line, LINES.get(line["kind"], {}), folder.metrics)
    return Run(
        name=name,
        config=_checked(folder.config, CONFIG),
        environment=read_json(folder.environment) if folder.environment.exists() else {},
        result=_checked(folder.result, RESULT) if folder.result.exists() else None,
        student=student,
        evaluation=evaluation if current else None,
        outdated=evaluation is not None and not current,
        failed=folder.failed_batch.exists(),
        steps=tuple(line for line in lines if line["kind"] == "train"),
        validations=tuple(line for line in lines if line["kind"] == "validation"),
    )


def _checked(path: Path, members: "Members") -> Record:
    return check_members(read_json(path), members, path)


def distinct_names(paths: "Sequence[Path]") -> list[str]:
    """The shortest ends of paths that differ from one another.

    >>> distinct_names([Path("/a/run"), Path("/b/run"), Path("/b/other")])
    ['a/run', 'b/run', 'other']
    """
    return [_shortest_end(path, [other for other in paths if other != path]) for path in paths]


def _shortest_end(path: Path, others: "Sequence[Path]") -> str:
    for length in range(1, len(path.parts)):
        end = path.parts[-length:]
        if all(other.parts[-length:] != end for other in others):
            return "/".join(end)
    return str(path)
