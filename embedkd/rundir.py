"""The folder of one run: what it was asked, where it ran, what it measured, and what came of it.

    config.json          the resolved config
    environment.json     versions and hardware
    metrics.jsonl        one line a logged step and a validation
    events.out.*         the same for TensorBoard
    logs.json            what other loggers call the run, where there are any
    checkpoint.pt        everything needed to go on
    student.safetensors  the best student so far, with student.json, which says how to build it
    student-projections.safetensors    what its losses learned beside it, where they learned anything
    result.json          the last thing written: a run that has it is finished

Files are replaced whole (`embedkd.storage.write_atomic`); metrics.jsonl grows, and is cut back to the checkpoint when a
run goes on, so that no line is there twice.

Run folders are passed on and compared, so they are read as a stranger's: plain files alone, of bounded size and depth.
"""

import json
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from embedkd.config import Config
from embedkd.errors import CheckpointError, StorageError, TrainingError
from embedkd.records import is_shallow
from embedkd.storage import write_all, write_atomic, write_error
from embedkd.storage.files import read_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

T = TypeVar("T")

_PACKAGES = ("embedkd", "torch", "torchvision", "timm", "numpy", "pillow", "webdataset", "numcodecs", "safetensors")
_SHOWN_KEYS = 4
MAX_DOCUMENT_BYTES = 4 << 20
MAX_METRICS_BYTES = 256 << 20
MAX_METRICS_LINES = 1 << 20
_MAX_LINE_BYTES = 64 << 10
_MAX_DEPTH = 32


@dataclass(frozen=True)
class RunDir:
    """A run's folder and the names in it."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        """Versions and hardware of the run's first start."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        """What other loggers call the run, where there are any."""
        return self.path / "logs.json"

    @property
    def checkpoint(self) -> Path:
        """The state to go on from."""
        return self.path / "checkpoint.pt"

    @property
    def student(self) -> Path:
        """How to build the best student; its weights lie beside."""
        return self.path / "student.json"

    @property
    def weights(self) -> Path:
        """Weights of the best student."""
        return self.path / "student.safetensors"

    @property
    def projections(self) -> Path:
        """What the losses learned beside the best student: projections and scales, where there are any."""
        return self.path / "student-projections.safetensors"

    @property
    def result(self) -> Path:
        """The outcome; there once the run is finished."""
        return self.path / "result.json"

    @property
    def failed_batch(self) -> Path:
        """The batch whose loss was not finite, where that stopped the run."""
        return self.path / "failed_batch.json"

    def check(self, config: Config, *, resume: bool) -> None:
        """Refuse a folder whose run this is not; touches nothing.

        Args:
            config: The resolved config.
            resume: Whether to go on with what is there; where nothing is there a new run may begin.

        Raises:
            TrainingError: A run is there, and ``resume`` is not set.
            CheckpointError: A run of another config is there.
        """
        if not any(path.exists() for path in (self.config, self.checkpoint, self.result)):
            return
        if not resume:
            raise TrainingError(
                f"{self.path} already holds a run; add --resume to go on with it, or name another folder with --out"
            )
        theirs, ours = self.read_config().training_facts(), config.training_facts()
        keys = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
        if keys:
            changes = [
                f"{key} was {theirs.get(key, 'unset')}, is {ours.get(key, 'unset')}" for key in keys[:_SHOWN_KEYS]
            ]
            more = f"; {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
            raise CheckpointError(
                f"{self.path} holds a run of another config: {'; '.join(changes)}{more}\n"
                "undo the change to go on with it, or name another folder with --out"
            )

    def claim(self, config: Config) -> None:
        """Write what is known before the first step.

        Raises:
            StorageError: The folder cannot be written.
        """
        if not self.config.exists():
            write_json(self.environment, environment())
        write_json(self.config, config.to_dict())

    def read_config(self) -> Config:
        """The config of the run.

        Raises:
            TrainingError: There is no run here.
            ConfigError: It was written by a version with other keys.
        """
        return Config.from_dict(read_json(self.config))

    def read_result(self) -> dict[str, Any] | None:
        """The outcome; None while the run is not finished."""
        return read_json(self.result) if self.result.exists() else None

    def read_metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, or those of one kind ("train", "validation").

        A last line without its end is left out: the run may be writing it.

        Raises:
            TrainingError: They cannot be read, or are not what a run writes.
        """
        if not self.metrics.exists():
            return []
        data = _read(self.metrics, MAX_METRICS_BYTES)
        if data.count(b"\n") > MAX_METRICS_LINES:
            raise TrainingError(f"{self.metrics} has more than {MAX_METRICS_LINES} lines; no run logs so many")
        *lines, _ = data.split(b"\n")
        records = [_record(line, self.metrics) for line in lines]
        return [record for record in records if kind in {None, record["kind"]}]


def result_from(kind: type[T], document: "Mapping[str, Any]", path: Path) -> T:
    """A result dataclass from what it wrote.

    Raises:
        CheckpointError: The file was written by another version, or by hand.
    """
    try:
        return kind(**document)
    except TypeError as error:
        raise CheckpointError(
            f"{path} is no result of this version ({error}); remove it to make the last steps again"
        ) from error


class MetricsLog:
    """Appends to metrics.jsonl.

    Args:
        path: The file.
        keep_bytes: Length of what stays of an earlier part of the run; later lines are steps that will be repeated.

    Raises:
        CheckpointError: The file is shorter than that.
    """

    def __init__(self, path: Path, *, keep_bytes: int = 0) -> None:
        length = path.stat().st_size if path.exists() else 0
        if length < keep_bytes:
            raise CheckpointError(
                f"{path} has {length} bytes, the checkpoint was written after {keep_bytes}; "
                "put the file back, or name another --out to start again"
            )
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
            self._file.truncate(keep_bytes)
        except OSError as error:
            raise write_error(path, error) from error

    def append(self, record: "Mapping[str, Any]") -> None:
        """Write one line and hand it to the operating system, so that a killed process loses none.

        Raises:
            StorageError: The line could not be written.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            write_all(self._file.fileno(), line.encode())
        except OSError as error:
            raise write_error(self._path, error) from error

    def sync(self) -> int:
        """Make all lines durable; gives the file's length, for the checkpoint that is written next.

        Raises:
            StorageError: They could not be written.
        """
        try:
            os.fsync(self._file.fileno())
            return self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise write_error(self._path, error) from error

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self._file.close()


def write_json(path: Path, document: "Mapping[str, Any]") -> None:
    """Replace a file by a JSON object, indented for people.

    Raises:
        StorageError: It could not be written; the old file is as it was.
        ValueError: The document holds a NaN or an infinity.
    """
    write_atomic(path, (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a run folder.

    Raises:
        TrainingError: It is not there, not JSON, or nothing that a run would write.
    """
    return _object(_read(path, MAX_DOCUMENT_BYTES), path)


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        data = read_regular(path, limit_bytes)
    except FileNotFoundError as error:
        raise TrainingError(f"expected a run folder with {path.name}, {path.parent} has none") from error
    except (OSError, StorageError) as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error
    if len(data) > limit_bytes:
        raise TrainingError(f"{path} is longer than {limit_bytes} bytes; no run writes so much")
    return data


def _record(line: bytes, path: Path) -> dict[str, Any]:
    if len(line) > _MAX_LINE_BYTES:
        raise TrainingError(f"{path} has a line of more than {_MAX_LINE_BYTES} bytes; no run writes so much")
    record = _object(line, path)
    if not isinstance(record.get("kind"), str):
        raise TrainingError(f"{path}: expected lines that name their kind; cut it back to those that do")
    return record


def _object(data: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise TrainingError(f"{path}: expected a JSON object, got {type(document).__name__}")
    if not is_shallow(document, _MAX_DEPTH):
        raise TrainingError(f"{path} is nested more than {_MAX_DEPTH} deep; no run writes that")
    return document


def environment() -> dict[str, Any]:
    """Versions and hardware that a run's numbers may depend on; nothing that names a user or a machine."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": usable_cpus(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def usable_cpus() -> int:
    """Processors that this process may use; in a container fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
