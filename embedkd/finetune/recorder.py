"""What a fine-tuning run leaves while it goes on, in a folder beside its result.

<out>.run/config.json        what it was asked
<out>.run/environment.json   versions and hardware
<out>.run/metrics.jsonl      one line a step and a validation
<out>.run/checkpoint.pt      everything needed to go on
<out>.run/best.safetensors   backbone and classifier of the best epoch so far
<out>.run/result.json        the last thing written
"""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch

from embedkd.errors import CheckpointError, TrainingError
from embedkd.rundir import MetricsLog, RunDir, environment, read_json, write_json
from embedkd.storage import write_atomic
from embedkd.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from embedkd.config.tuning import FinetuneConfig
    from embedkd.finetune.tuner import Found, Tuner
    from embedkd.progress import Progress
    from embedkd.training.state import StepValues

_BACKBONE, _CLASSIFIER = "backbone.", "classifier."
# What a resumed run may change: where things lie and what they run on. That the teacher is the same is checked by its
# weights, that the data is by its bytes.
_FREE = ("teacher", "out", "workers", "device")


def facts_of(config: "FinetuneConfig") -> dict[str, Any]:
    """Every value that the tuned weights depend on, teacher and data aside."""
    return {key: value for key, value in asdict(config).items() if key not in _FREE}


def check_run(run: RunDir, out: "Path", config: "FinetuneConfig", *, resume: bool) -> None:
    """Refuse a folder whose run this is not; touches nothing.

    Raises:
        TrainingError: A run is there and ``resume`` is not set, or the result's name is taken by something else.
        CheckpointError: A run of another config is there.
    """
    begun = run.config.exists()
    if out.exists() and not begun:
        raise TrainingError(f"{out} is there already; name another folder with --out")
    if not begun:
        return
    if not resume:
        raise TrainingError(
            f"{run.path} already holds a run; add --resume to go on with it, or name another folder with --out"
        )
    theirs, ours = read_json(run.config).get("finetune"), facts_of(config)
    if theirs != ours:
        known = theirs if isinstance(theirs, dict) else {}
        changed = [key for key in ours if known.get(key) != ours[key]]
        changes = [f"{key} was {known.get(key, 'unset')}, is {ours[key]}" for key in changed]
        raise CheckpointError(
            f"{run.path} holds a run of another config: {'; '.join(changes)}\n"
            "undo the change to go on with it, or name another folder with --out"
        )


def claim(run: RunDir, config: "FinetuneConfig") -> None:
    """Write what is known before the first step.

    Raises:
        StorageError: The folder cannot be written.
    """
    if not run.config.exists():
        write_json(run.environment, environment())
        write_json(run.config, {"finetune": facts_of(config)})


class Recorder:
    """Writes a run's folder.

    Args:
        run: The folder.
        log: Its metrics, open.
        identity: What the run learns from and begins with, for the checkpoint.
        progress: Watches.
        elapsed_s: Seconds of earlier parts of the run.
    """

    def __init__(
        self, run: RunDir, log: MetricsLog, identity: dict[str, str], progress: "Progress", elapsed_s: float
    ) -> None:
        self._run = run
        self._log = log
        self._identity = identity
        self._progress = progress
        self._began = time.perf_counter() - elapsed_s

    def _elapsed_s(self) -> float:
        return round(time.perf_counter() - self._began, 3)

    def step(self, tuner: "Tuner", values: "StepValues") -> None:
        """A step was done."""
        step, phase = tuner.position.step, "tune" if tuner.tuning else "warmup"
        epoch = (step - 1) // tuner.steps_per_epoch + 1
        facts = {"loss": values.loss, "grad_norm": values.grad_norm, "lr": values.lr, "elapsed_s": self._elapsed_s()}
        self._log.append({"kind": "train", "phase": phase, "step": step, "epoch": epoch, **facts})
        self._progress.advance(1, f"{phase} epoch {epoch} loss {values.loss:.3f}")

    def validation(self, tuner: "Tuner", epoch: int, found: "Found", *, better: bool) -> None:
        """An epoch was validated."""
        facts = {"top1": found.top1, "loss": found.loss, "rows": found.rows, "best": better}
        phase = "tune" if tuner.tuning else "warmup"
        where = {"phase": phase, "step": tuner.position.step, "epoch": epoch}
        self._log.append({"kind": "validation", **where, **facts, "elapsed_s": self._elapsed_s()})

    def checkpoint(self, tuner: "Tuner") -> None:
        """Write what is needed to go on from here; the metrics first, so that they are never behind it."""
        tuner.position.elapsed_s = self._elapsed_s()
        checkpoint = Checkpoint(
            position=tuner.position,
            data={"identity": self._identity, "best_loss": tuner.best_loss},
            metrics_bytes=self._log.sync(),
            student=tuner.backbone.module.state_dict(),
            objective=tuner.classifier.state_dict(),
            optimiser=tuner.optimiser.state_dict(),
        )
        write_checkpoint(self._run.checkpoint, checkpoint)

    def best(self, tuner: "Tuner") -> None:
        """Keep the present weights as the best ones."""
        state = {_BACKBONE + name: tensor for name, tensor in tuner.backbone.module.state_dict().items()}
        state |= {_CLASSIFIER + name: tensor for name, tensor in tuner.classifier.state_dict().items()}
        # A copy of each: safetensors refuses tensors that share memory, as tied weights do.
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
        write_atomic(best_file(self._run), safetensors.torch.save(copies))


def best_file(run: RunDir) -> "Path":
    """Weights of the best epoch."""
    return run.path / "best.safetensors"


def load_best(run: RunDir, tuner: "Tuner") -> None:
    """Put the best epoch's weights into a tuner.

    Raises:
        CheckpointError: They are not there, or of another model.
    """
    file = best_file(run)
    try:
        state = safetensors.torch.load(file.read_bytes())
        for prefix, module in ((_BACKBONE, tuner.backbone.module), (_CLASSIFIER, tuner.classifier)):
            module.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{file} cannot be read ({reason}); delete {run.path} to start again") from error


def read_state(run: RunDir, identity: dict[str, str]) -> Checkpoint | None:
    """The state to go on from, if teacher and data are still the same; None at the beginning of a run.

    Raises:
        CheckpointError: They are not, or the checkpoint cannot be read.
    """
    if not run.checkpoint.exists():
        return None
    checkpoint = read_checkpoint(run.checkpoint)
    theirs = checkpoint.data.get("identity", {})
    changed = [part for part in sorted({*theirs, *identity}) if theirs.get(part) != identity.get(part)]
    if changed:
        raise CheckpointError(
            f"{run.path} began with another teacher or other data (changed: {', '.join(changed)}); "
            "go on with what it began with, or name another folder with --out"
        )
    return checkpoint
