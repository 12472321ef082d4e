"""MLflow: the metrics of a run, and its config as parameters.

Where they go is for its own environment variables (``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``, ...): no key
and no address is in any file here.
"""

import os
from itertools import islice
from typing import TYPE_CHECKING, Final

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from embedkd.training.logs.logger import scalars

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedkd.training.logs.logger import Outcome, Record, Start

_MAX_METRICS: Final = 1000  # of a request, as of its parameters: 100
_MAX_PARAMETERS: Final = 100
_MAX_CHARACTERS: Final = 500  # of a parameter
_STATUS: Final = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Mlflow:
    """See `Logger`.

    Args:
        start: With the run's id, if it has one.

    Raises:
        Exception: What mlflow raises, for want of a server or of rights on it.
    """

    def __init__(self, start: "Start") -> None:
        self._client = MlflowClient()
        self._last = start.last
        self._began_s = start.began_s
        if start.identity is None:
            self.identity = self._create(start.run.path.name)
            self._log_config(start.config)
        else:
            self.identity = start.identity
            self._client.update_run(self.identity, status="RUNNING")
        self.extend(start.records)

    def extend(self, records: "Sequence[Record]") -> None:
        """See `Logger.extend`; what it has already is left out, for it keeps every value that a step was given."""
        new = [record for record in records if record["step"] > self._last.get(record["kind"], 0)]
        metrics = iter([metric for record in new for metric in self._metrics(record)])
        while part := list(islice(metrics, _MAX_METRICS)):
            self._client.log_batch(self.identity, metrics=part)

    def close(self, outcome: "Outcome") -> None:
        """See `Logger.close`."""
        self._client.set_terminated(self.identity, _STATUS[outcome])

    def _create(self, name: str) -> str:
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "embedkd")
        found = self._client.get_experiment_by_name(title)
        experiment = self._client.create_experiment(title) if found is None else found.experiment_id
        return str(self._client.create_run(experiment, run_name=name).info.run_id)

    def _log_config(self, config: "Mapping[str, object]") -> None:
        texts = iter([Param(key, str(value)[:_MAX_CHARACTERS]) for key, value in config.items()])
        while part := list(islice(texts, _MAX_PARAMETERS)):
            self._client.log_batch(self.identity, params=part)

    def _metrics(self, record: "Record") -> list[Metric]:
        time_ms = int((self._began_s + record["elapsed_s"]) * 1000)
        return [Metric(name, value, time_ms, record["step"]) for name, value in scalars(record).items()]
