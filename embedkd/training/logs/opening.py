"""The metrics of a run, and everyone who takes them, opened together."""

import importlib
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from embedkd.errors import ConfigError, Interrupted, TrainingError, UnknownNameError
from embedkd.rundir import MetricsLog, RunDir
from embedkd.storage import write_error
from embedkd.storage.files import make_folder
from embedkd.training.logs.logger import Background, Guarded, Start, said
from embedkd.training.logs.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from embedkd.training.logs.logger import Logger, Outcome, Record


@dataclass(frozen=True)
class _Entry:
    """A logger that there is.

    Attributes:
        module: Imported when the logger is asked for.
        kind: The class in it.
        package: What must be installed; the extra of embedkd has the logger's name. None needs nothing.
        hint: What helps where it cannot begin.
    """

    module: str
    kind: str
    package: str | None = None
    hint: str = ""


LOGS: Final[dict[str, _Entry]] = {
    "tensorboard": _Entry("embedkd.training.logs.tensorboard", "TensorBoard"),
    "wandb": _Entry(
        "embedkd.training.logs.wandb", "Wandb", "wandb", "log in by wandb login, or keep it here by WANDB_MODE=offline"
    ),
    "mlflow": _Entry(
        "embedkd.training.logs.mlflow", "Mlflow", "mlflow", "name a server that answers by MLFLOW_TRACKING_URI"
    ),
}


def require_logs(names: "Sequence[str]") -> None:
    """Refuse loggers that this installation does not have.

    Raises:
        UnknownNameError: There is no such logger.
        ConfigError: Its package is missing; says which extra has it.
    """
    for name in names:
        if name not in LOGS:
            raise UnknownNameError("log", name, LOGS)
        package = LOGS[name].package
        if package is not None and find_spec(package) is None:
            raise ConfigError(
                f"expected the package {package} for --log {name}, it is not installed; "
                f"pip install 'embedkd[{name}]', or leave the log out"
            )


class RunLogs:
    """Takes the place of metrics.jsonl and hands every line on.

    Args:
        metrics: The file, open.
        loggers: Who else takes the lines.
    """

    def __init__(self, metrics: MetricsLog, loggers: "Sequence[Guarded | Background]") -> None:
        self._metrics = metrics
        self._loggers = loggers

    def append(self, record: "Record") -> None:
        """Write one line of metrics.jsonl, then hand it on.

        Raises:
            StorageError: The line could not be written.
        """
        self._metrics.append(record)
        self.hand_on(record)

    def hand_on(self, record: "Record") -> None:
        """A record that is no line of metrics.jsonl."""
        for logger in self._loggers:
            logger.extend([record])

    def sync(self) -> int:
        """See `MetricsLog.sync`."""
        return self._metrics.sync()

    def close(self, outcome: "Outcome") -> None:
        """No more will come."""
        for logger in self._loggers:
            logger.close(outcome)


@contextmanager
def open_logs(
    run: RunDir,
    names: "Sequence[str]",
    config: "Mapping[str, Any]",
    *,
    keep_bytes: int,
    elapsed_s: float,
    say: "Callable[[str], None]",
) -> "Iterator[RunLogs]":
    """Cut metrics.jsonl back to the checkpoint, and begin or go on with all loggers.

    Args:
        run: The folder.
        names: Of the loggers.
        config: Tables of settings.
        keep_bytes: What stays of metrics.jsonl.
        elapsed_s: Of the earlier parts of the run.
        say: Takes a line when a logger fails.

    Raises:
        StorageError: The folder cannot be written.
        TrainingError: A logger cannot begin.
        CheckpointError: metrics.jsonl is shorter than the checkpoint says.
    """
    require_logs(names)
    try:
        make_folder(run.path)
    except OSError as error:
        raise write_error(run.path, error) from error
    memory = Memory(run, _kept(run, say) if run.logs.exists() else [])
    memory.keep({})  # metrics.jsonl, which tells how far loggers are, is cut in the next line
    with MetricsLog(run.metrics, keep_bytes=keep_bytes) as metrics:
        records, began_s = _kept(run, say) if keep_bytes else [], time.time() - elapsed_s
        flat, loggers, identities = dict(_flat(config, "")), list[Guarded | Background](), dict[str, str]()
        outcome: Outcome = "failed"
        logs = RunLogs(metrics, loggers)
        try:
            for name in dict.fromkeys(names):
                known = memory.of(name)
                made = _begin(name, Start(run, flat, known.identity, records, known.last, began_s))
                loggers.append(_guarded(name, made, say))
                if made.identity is not None:
                    identities[name] = made.identity
            memory.keep(identities)
            yield logs
            outcome = "finished"
        except Interrupted:
            outcome = "stopped"
            raise
        finally:
            logs.close(outcome)


def _kept(run: RunDir, say: "Callable[[str], None]") -> "list[Record]":
    """The lines that stay, for loggers; a run that cannot read its own goes on all the same."""
    try:
        return list(run.read_metrics())
    except TrainingError as error:
        say(f"warning: loggers get no lines of the earlier part ({error})")
        return []


def _begin(name: str, start: Start) -> "Logger":
    entry = LOGS[name]
    try:
        logger: Logger = getattr(importlib.import_module(entry.module), entry.kind)(start)
    except Exception as error:  # whatever a foreign library or its server comes up with
        hint = f"{entry.hint}, or leave the log out" if entry.hint else "leave the log out"
        raise TrainingError(f"--log {name} cannot begin: {said(error)}\n{hint}") from error
    return logger


def _guarded(name: str, logger: "Logger", say: "Callable[[str], None]") -> Guarded | Background:
    guarded = Guarded(name, logger, say)
    return guarded if LOGS[name].package is None else Background(guarded, say)


def _flat(value: "Mapping[str, Any]", prefix: str) -> "Iterator[tuple[str, object]]":
    """Settings by dotted keys."""
    for name, entry in value.items():
        if isinstance(entry, dict):
            yield from _flat(entry, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", entry
