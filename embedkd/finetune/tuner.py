"""All that changes while a teacher learns, and one step of it."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from embedkd.errors import CheckpointError, TrainingError
from embedkd.finetune.rates import check_parts, depths, layered_optimiser, set_modes
from embedkd.seeding import stream_seed
from embedkd.training.device import Precision, autocast
from embedkd.training.lesson import without_padding
from embedkd.training.optim import Schedule
from embedkd.training.state import Position, StepValues

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from embedkd.config.tuning import FinetuneConfig
    from embedkd.join import Batch
    from embedkd.teachers import Backbone
    from embedkd.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Found:
    """A validation.

    Attributes:
        hits: Right answers.
        rows: Labelled samples.
        loss: Mean cross-entropy, without label smoothing.
    """

    hits: int
    rows: int
    loss: float

    @property
    def top1(self) -> float:
        """Share of right answers."""
        return self.hits / self.rows


class Tuner:
    """A backbone with its new classifier, and what both learn by.

    In the first phase the classifier learns alone, on features of the backbone as it is; in the second both learn. Each
    has an optimiser and a schedule of its own.

    Args:
        backbone: Of the teacher; changed in place.
        classifier: From its features to logits, on the same device.
        config: Rates, epochs, seed.
        steps_per_epoch: Batches an epoch.
        precision: Of the forward pass.

    Attributes:
        position: How far it is; steps count over both phases.
        best_loss: Validation loss of the best epoch; None before the first.
        optimiser: Of the present phase.

    Raises:
        TeacherError: The backbone's parts do not fit its parameters.
        ConfigError: The backbone has fewer blocks than should learn.
    """

    def __init__(
        self,
        backbone: "Backbone",
        classifier: nn.Linear,
        config: "FinetuneConfig",
        *,
        steps_per_epoch: int,
        precision: Precision,
    ) -> None:
        check_parts(backbone)
        self._by_depth = depths(backbone, config.last_blocks)
        self.backbone = backbone
        self.classifier = classifier
        self.device = classifier.weight.device
        self.position = Position()
        self.best_loss: float | None = None
        self.steps_per_epoch = steps_per_epoch
        self.warmup_steps = config.warmup_epochs * steps_per_epoch
        self.steps = self.warmup_steps + config.epochs * steps_per_epoch
        self._config = config
        self._precision = precision
        self._enter(tuning=not self.warmup_steps)

    def _enter(self, *, tuning: bool) -> None:
        """Begin one of the two phases."""
        config = self._config
        steps = self.steps - self.warmup_steps if tuning else self.warmup_steps
        self.tuning = tuning
        self.optimiser = layered_optimiser(
            self.backbone,
            self.classifier,
            self._by_depth if tuning else {},
            lr=config.lr if tuning else config.warmup_lr,
            decay=config.layer_decay,
            weight_decay=config.weight_decay,
        )
        self._schedule = Schedule(
            self.optimiser,
            steps=steps,
            warmup_steps=round(config.lr_warmup_epochs * self.steps_per_epoch),
            final_lr_ratio=config.final_lr_ratio,
        )
        self._learning = [p for group in self.optimiser.param_groups for p in group["params"]]
        self._set_modes()

    def _set_modes(self) -> None:
        if self.tuning:
            set_modes(self.backbone, statistics=self._config.last_blocks is None)
        else:
            self.backbone.module.eval()

    def gradients(self, batch: "Batch") -> StepValues:
        """Forward and backward of the next step; `update` then takes it.

        What is random in a model is a function of the seed and the step, so no generator's state need be kept.

        Raises:
            TrainingError: A label is no class.
        """
        step = self.position.step + 1
        if step > self.warmup_steps and not self.tuning:
            self._enter(tuning=True)
        torch.manual_seed(stream_seed(self._config.seed, "step", step))
        lr = self._schedule.set_rate(step - (self.warmup_steps if self.tuning else 0))
        batch = without_padding(batch)
        self._check_labels(batch)
        batch = batch.to(self.device)
        with autocast(self.device, self._precision):
            with torch.set_grad_enabled(self.tuning):
                features = self.backbone.features(batch.pixels)
            logits = self.classifier(features)
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self._config.label_smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._learning, self._config.clip_grad_norm or math.inf)
        value, grad_norm = torch.stack([loss.detach(), norm.detach()]).tolist()
        return StepValues(value, {"cross_entropy": value}, grad_norm, lr)

    def _check_labels(self, batch: "Batch") -> None:
        classes = self.classifier.out_features
        if int(batch.labels.max()) >= classes:
            at = int(batch.labels.argmax())
            raise TrainingError(
                f"sample {batch.keys[at]!r} has label {int(batch.labels[at])}, the data names {classes} classes; "
                "mend the shard or its index"
            )

    def update(self) -> None:
        """Change the parameters by the gradients."""
        self.optimiser.step()
        self.position.step += 1

    def evaluate(self, batches: "Iterable[Batch]", stop: "Callable[[], bool] | None" = None) -> Found | None:
        """Right answers and loss; None if told to stop before the end.

        Raises:
            TrainingError: No sample has a label, or a label is no class.
        """
        hits, rows, loss = 0, 0, 0.0
        self.backbone.module.eval()
        try:
            with torch.inference_mode():
                for batch in batches:
                    if stop is not None and stop():
                        return None
                    counted = batch.valid & (batch.labels >= 0)
                    self._check_labels(batch)
                    logits = self.logits(batch.pixels[counted].to(self.device, non_blocking=True)).cpu()
                    labels = batch.labels[counted]
                    hits += int((logits.argmax(1) == labels).sum())
                    rows += len(labels)
                    loss += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
        finally:
            self._set_modes()
        if not rows:
            raise TrainingError("expected labelled samples to validate on, the split has none")
        return Found(hits, rows, loss / rows)

    def logits(self, pixels: "Tensor") -> "Tensor":
        """What backbone and classifier say now, float32 [B, C], in the modes that they are in."""
        with autocast(self.device, self._precision):
            answer: Tensor = self.classifier(self.backbone.features(pixels))
        return answer.float()

    def restore(self, checkpoint: "Checkpoint") -> None:
        """Go on from a checkpoint of the same config.

        Raises:
            CheckpointError: It is of another model.
        """
        self._enter(tuning=checkpoint.position.step > self.warmup_steps or not self.warmup_steps)
        try:
            self.backbone.module.load_state_dict(checkpoint.student)
            self.classifier.load_state_dict(checkpoint.objective)
            self.optimiser.load_state_dict(checkpoint.optimiser)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"the checkpoint belongs to another teacher: {reason}") from error
        self.position = checkpoint.position
        self.best_loss = checkpoint.data["best_loss"]
