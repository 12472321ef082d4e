"""What ``embedkd finetune`` does, from a teacher's name to a folder that is a teacher itself."""

import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkd.errors import StorageError
from embedkd.finetune.loop import tune
from embedkd.finetune.recorder import Recorder, check_run, claim, facts_of, load_best, read_state
from embedkd.finetune.setting import Setting
from embedkd.finetune.tuner import Tuner
from embedkd.progress import Progress, Silent
from embedkd.rundir import MetricsLog, RunDir, result_from, write_json
from embedkd.storage import make_folder, sync_folder
from embedkd.teachers.classifier import CARD_FILE, Card, save_classifier
from embedkd.training.device import device_name
from embedkd.training.signals import stop_wish

if TYPE_CHECKING:
    from embedkd.config.tuning import FinetuneConfig


@dataclass(frozen=True)
class FinetuneResult:
    """result.json: what came of a run.

    Attributes:
        teacher: Name of the teacher before.
        out: Folder of the tuned teacher.
        classes: Width of its logits.
        epochs: Epochs of both phases.
        steps: Steps of both phases.
        train_rows: Training samples an epoch.
        val_rows: Samples that chose the best epoch.
        held_out: Whether these were held out from the training split.
        best_epoch: The kept epoch, from 1.
        val_top1: Its share of right answers on them.
        val_loss: Its mean cross-entropy on them.
        test_top1: Its share on the test split, looked at once, at the end; None without one.
        test_rows: Samples of the test split.
        elapsed_s: Wall time of training and validation, over all parts of the run.
        device: What it ran on.
        precision: Of the forward pass.
    """

    teacher: str
    out: str
    classes: int
    epochs: int
    steps: int
    train_rows: int
    val_rows: int
    held_out: bool
    best_epoch: int
    val_top1: float
    val_loss: float
    test_top1: float | None
    test_rows: int
    elapsed_s: float
    device: str
    precision: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for people."""
        val = "held-out training samples" if self.held_out else "validation"
        test = "" if self.test_top1 is None else f", test {self.test_top1:.1%}"
        when = f"after epoch {self.best_epoch} of {self.epochs}, {self.elapsed_s:.0f} s"
        return (
            f"{self.out}: {self.teacher} tuned to {self.classes} classes, top-1 {val} {self.val_top1:.1%}{test} {when}"
        )


def finetune(
    config: "FinetuneConfig", shards: str | None, *, resume: bool = False, progress: Progress | None = None
) -> FinetuneResult:
    """Tune a teacher to labelled shards and leave a folder that ``--teacher`` takes.

    Args:
        config: How.
        shards: The data: a folder, a glob, a pattern or a symbolic name.
        resume: Go on with the run beside ``config.out``; a finished one is left as it is and its result given.
        progress: Who watches.

    Raises:
        ConfigError: A name or value cannot be used.
        TrainingError: The folder holds another run, there is nothing to learn from, or a loss is not finite.
        SourceError: A shard or an image cannot be used.
        TeacherError: The teacher cannot be loaded, or not be tuned.
        Interrupted: SIGINT or SIGTERM; a checkpoint was written, and ``resume`` goes on from it.
    """
    watch, out = progress or Silent(), Path(config.out)
    run = RunDir(out.with_name(f"{out.name}.run"))
    check_run(run, out, config, resume=resume)
    finished = run.read_result()
    if finished is not None:
        watch.line(f"{out} is finished already; name another folder with --out to tune again")
        return result_from(FinetuneResult, finished, run.result)
    setting = Setting.of(config, shards, watch)
    tuner = _tune(setting, run, watch)
    load_best(run, tuner)
    result = _result(setting, tuner)
    if not (out / CARD_FILE).exists():  # else killed between the two last writes of a run
        _publish(setting, tuner, out)
    write_json(run.result, result.to_json())
    return result


def _tune(setting: Setting, run: RunDir, watch: Progress) -> Tuner:
    tuner = setting.tuner()
    checkpoint = read_state(run, setting.identity)
    if checkpoint is not None:
        tuner.restore(checkpoint)
    claim(run, setting.config)
    keep_bytes = 0 if checkpoint is None else checkpoint.metrics_bytes
    watch.begin("finetune", tuner.steps - tuner.position.step, "steps")
    try:
        with MetricsLog(run.metrics, keep_bytes=keep_bytes) as log, stop_wish() as stop:
            recorder = Recorder(run, log, setting.identity, watch, tuner.position.elapsed_s)
            batches = setting.training_batches(tuner.position.step, tuner.steps_per_epoch)
            tune(tuner, batches, setting.held_out_batches(setting.data.val), recorder, stop)
    finally:
        watch.end()
    return tuner


def _publish(setting: Setting, tuner: Tuner, out: Path) -> None:
    """Make the tuned teacher's folder, whole or not at all.

    Raises:
        StorageError: It cannot be written.
    """
    spec = setting.teacher.spec
    card = Card(
        features=setting.backbone.output,
        classes=setting.data.class_names,
        derived_from=f"{spec.name} {spec.fingerprint}",
        facts={"val_top1": tuner.position.best_top1, "config": facts_of(setting.config)},
    )
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    try:
        make_folder(temporary)
        setting.backbone.save(temporary)
        save_classifier(temporary, tuner.classifier, card)
        temporary.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # it has its final name, or is not whole


def _result(setting: Setting, tuner: Tuner) -> FinetuneResult:
    data, position = setting.data, tuner.position
    assert position.best_top1 is not None
    assert position.best_epoch is not None
    assert tuner.best_loss is not None
    found = None if data.test is None else tuner.evaluate(setting.held_out_batches(data.test))
    return FinetuneResult(
        teacher=setting.teacher.spec.name,
        out=setting.config.out,
        classes=len(data.class_names),
        epochs=setting.config.warmup_epochs + setting.config.epochs,
        steps=position.step,
        train_rows=data.train.rows,
        val_rows=data.val.rows,
        held_out=data.held_out,
        best_epoch=position.best_epoch,
        val_top1=position.best_top1,
        val_loss=tuner.best_loss,
        test_top1=None if found is None else found.top1,
        test_rows=0 if found is None else found.rows,
        elapsed_s=position.elapsed_s,
        device=device_name(setting.device),
        precision=setting.precision,
    )
