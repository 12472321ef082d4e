"""A fine-tuning run before its first step: everything is found and checked, and nothing is written."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from embedkd.allocator import tune_allocator
from embedkd.errors import TeacherError
from embedkd.finetune.data import TuningData, open_data
from embedkd.finetune.tuner import Tuner
from embedkd.finetune.views import TeachersView, TrainingView
from embedkd.join import JoinedShards, make_loader
from embedkd.rundir import usable_cpus
from embedkd.teachers import LoadOptions, load_teacher
from embedkd.training.device import Precision, resolve_device, resolve_precision, resolve_workers

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from embedkd.config.tuning import FinetuneConfig
    from embedkd.join import Batch, Samples
    from embedkd.progress import Progress
    from embedkd.teachers import Backbone, Teacher


@dataclass(frozen=True)
class Setting:
    """What a run works with, opened and checked.

    Attributes:
        config: How the teacher is tuned.
        data: What it learns from.
        teacher: As it was loaded.
        backbone: Its trainable inside.
        device: Where it lies.
        precision: Of the forward pass.
    """

    config: "FinetuneConfig"
    data: TuningData
    teacher: "Teacher"
    backbone: "Backbone"
    device: "torch.device"
    precision: "Precision"

    @classmethod
    def of(cls, config: "FinetuneConfig", shards: str | None, watch: "Progress") -> "Setting":
        """Open the data and load the teacher.

        Raises:
            TrainingError: There is nothing to learn from.
            SourceError: The shards cannot be used.
            TeacherError: The teacher cannot be loaded, or not be tuned.
        """
        device = resolve_device(config.device)
        precision = resolve_precision(config.precision, device)
        data = open_data(shards, config)
        if data.held_out:
            rows = data.val.rows
            watch.line(
                f"there is no validation split: {rows} of {rows + data.train.rows} training samples are held out"
            )
        tune_allocator()
        watch.line(f"loading {config.teacher}")
        teacher = load_teacher(config.teacher, LoadOptions(device=str(device)))
        if teacher.backbone is None:
            raise TeacherError(f"{teacher.spec.name} cannot be tuned; take a model of vit:, timm:, openclip: or hf:")
        return cls(config, data, teacher, teacher.backbone, device, precision)

    @property
    def identity(self) -> dict[str, str]:
        """What a resumed run must share: part of it to a digest."""
        return {**self.data.identity, "teacher": self.teacher.spec.weights_sha256}

    def tuner(self) -> Tuner:
        """The backbone with a new classifier, at step 0.

        The classifier begins at zero, so nothing is drawn: its first gradient says which features tell the classes
        apart.

        Raises:
            TeacherError: The backbone's parts do not fit its parameters.
            ConfigError: The backbone has fewer blocks than should learn.
        """
        features = self.teacher.spec.output(self.backbone.output)
        if features is None:
            raise TeacherError(f"{self.teacher.spec.name} has no output '{self.backbone.output}' to classify by")
        with torch.device("meta"):  # an initialisation that is not used would move the global generator
            classifier = nn.Linear(features.dim, len(self.data.class_names))
        classifier.to_empty(device=self.device)
        nn.init.zeros_(classifier.weight)
        nn.init.zeros_(classifier.bias)
        steps = -(-self.data.train.rows // self.config.batch_size)
        return Tuner(
            self.backbone,
            classifier,
            self.config,
            steps_per_epoch=steps,
            precision=self.precision,
        )

    def training_batches(self, step: int, steps_per_epoch: int) -> "DataLoader[Batch]":
        """All batches after so many steps, augmented, to the end of the last epoch."""
        config = self.config
        view = TrainingView(self.teacher.spec.preprocess, min_crop_area=config.min_crop_area, flip=config.flip)
        epochs, start = config.warmup_epochs + config.epochs, divmod(step, steps_per_epoch)
        return self._loader(self.data.train, view, epochs=epochs, start=start, seed=config.seed)

    def held_out_batches(self, samples: "Samples") -> "DataLoader[Batch]":
        """Samples in their own order, as the teacher sees them."""
        return self._loader(samples, TeachersView(self.teacher.preprocess), shuffle=False)

    def _loader(self, samples: "Samples", view: TrainingView | TeachersView, **order: Any) -> "DataLoader[Batch]":
        workers = resolve_workers(self.config.workers, self.device, usable_cpus())
        dataset = JoinedShards(samples, view, global_batch_size=self.config.batch_size, **order)
        return make_loader(dataset, workers=workers, pin_memory=self.device.type == "cuda")
