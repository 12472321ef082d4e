"""Weights & Biases: the metrics and the config of a run, and nothing else.

Whether it is online, and who pays for it, is for its own environment variables (``WANDB_MODE``, ``WANDB_API_KEY``,
``WANDB_PROJECT``, ...): no key is in any file here. Host, user, git, console and system figures are left out, because
run folders are passed on.
"""

import os
import secrets
from typing import TYPE_CHECKING, Any

import wandb

from embedkd.training.logs.logger import scalars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.training.logs.logger import Outcome, Record, Start


class Wandb:
    """See `Logger`.

    Args:
        start: With the run's id, if it has one.

    Raises:
        Exception: What wandb raises, for want of a key or of a connection.
    """

    def __init__(self, start: "Start") -> None:
        self.identity = start.identity or secrets.token_hex(4)
        self._last = start.last
        settings = wandb.Settings(
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            console="off",
            host="",
            silent=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run: Any = wandb.init(
            id=self.identity,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT", "embedkd"),
            name=os.environ.get("WANDB_NAME", start.run.path.name),
            dir=os.environ.get("WANDB_DIR", start.run.path),
            config=dict(start.config),
            settings=settings,
            reinit="create_new",  # a process may train several students
        )
        self.extend(start.records)

    def extend(self, records: "Sequence[Record]") -> None:
        """See `Logger.extend`; what it has already is left out, for it takes no step twice."""
        for record in records:
            if record["step"] > self._last.get(record["kind"], 0):
                self._run.log(scalars(record), step=record["step"])

    def close(self, outcome: "Outcome") -> None:
        """See `Logger.close`."""
        self._run.finish(exit_code=0 if outcome == "finished" else 1)
