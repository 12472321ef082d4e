"""Sections for adapting teachers: fine-tuning one, and putting a head on stored rows."""

import math
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from embedkd.config.checks import require


@dataclass(frozen=True)
class FinetuneConfig:
    """``[finetune]``: a teacher learns the classes of the data.

    Attributes:
        teacher: Name, with its family where the bare one is ambiguous.
        out: Folder of the tuned teacher; the run lies beside it, in a folder of that name and ``.run``.
        warmup_epochs: Passes over the training split in which the classifier learns alone.
        epochs: Passes that follow, in which the backbone learns too; 0 leaves the backbone as it is.
        last_blocks: How many of the last blocks learn, with what follows them; None: everything does.
        batch_size: Samples a step.
        warmup_lr: Learning rate of the classifier while it learns alone.
        lr: Learning rate of the classifier afterwards, at the end of the optimiser's own warm-up.
        layer_decay: Factor on the learning rate from each part of the backbone to the one below it.
        lr_warmup_epochs: Epochs in which the rate rises, in either phase.
        final_lr_ratio: Rate of the last step, as a share of the greatest.
        weight_decay: Decoupled decay of matrices.
        clip_grad_norm: Greatest global L2 norm of a step's gradients; 0 clips nothing.
        label_smoothing: Share of the target that is spread over all classes.
        min_crop_area: Least share of the image's area in a random resized crop; 1 takes the whole image.
        flip: Probability of mirroring left and right.
        held_out: Share of the training split that is held out where the data has no validation split.
        seed: Of the order, augmentation, dropout and what is held out.
        workers: Processes that read and decode; None decides by the hardware, 0 reads in the training process.
        device: "auto" takes CUDA where there is one.
        precision: Of the forward pass; "auto" is bfloat16 autocast on CUDA devices that support it.
    """

    teacher: str = "packaged:efficientnet-lite0"
    out: str = "tuned"
    warmup_epochs: int = 2
    epochs: int = 10
    last_blocks: int | None = None
    batch_size: int = 64
    warmup_lr: float = 1e-2
    lr: float = 3e-4
    layer_decay: float = 0.75
    lr_warmup_epochs: float = 0.5
    final_lr_ratio: float = 0.01
    weight_decay: float = 0.05
    clip_grad_norm: float = 1.0
    label_smoothing: float = 0.1
    min_crop_area: float = 0.5
    flip: float = 0.5
    held_out: float = 0.1
    seed: int = 0
    workers: int | None = None
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        require(PurePath(self.out).name not in {"", ".."}, "finetune.out", "the name of a new folder", self.out)
        for name in ("warmup_epochs", "epochs", "lr_warmup_epochs", "weight_decay", "clip_grad_norm"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"finetune.{name}", "at least 0", value)
        require(self.warmup_epochs + self.epochs >= 1, "finetune.epochs", "at least 1 epoch of either kind", 0)
        require(self.batch_size >= 1, "finetune.batch_size", "at least 1", self.batch_size)
        for name in ("warmup_lr", "lr"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"finetune.{name}", "above 0", value)
        for name in ("layer_decay", "min_crop_area"):
            value = getattr(self, name)
            require(0 < value <= 1, f"finetune.{name}", "above 0 and at most 1", value)
        for name in ("final_lr_ratio", "flip"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"finetune.{name}", "from 0 to 1", value)
        require(0 <= self.label_smoothing < 1, "finetune.label_smoothing", "from 0 to below 1", self.label_smoothing)
        require(0 < self.held_out < 1, "finetune.held_out", "above 0 and below 1", self.held_out)
        for name in ("last_blocks", "workers"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"finetune.{name}", "at least 0", value)


@dataclass(frozen=True)
class HeadConfig:
    """``[head]``: logits from stored rows, without a pass of the teacher.

    Attributes:
        store: The embedding store.
        teacher: Which of its teachers, where it has several besides those that a head made.
        output: The rows that the head reads; None takes the model's own embedding.
        kind: "linear" is fitted to the labels of the training split, "zero-shot" made of stored class texts.
        name: Of the head; None takes its kind.
        class_set: Class texts of a zero-shot head; None takes the only set of the output ``text``.
        l2: Strength of the penalty on the weights of a linear head; None chooses on the validation split.
        folds: A training row's logits come from a head that was fitted without the row's fold.
        seed: Divides the training split into folds.
        max_rows: Most rows that are fitted, chosen by hash where there are more; they are held in memory.
        iterations: Most steps of L-BFGS in one fit.
        device: Where heads are fitted; "auto" takes CUDA where there is one.
    """

    store: str = "store.zarr"
    teacher: str | None = None
    output: str | None = None
    kind: Literal["linear", "zero-shot"] = "linear"
    name: str | None = None
    class_set: str | None = None
    l2: float | None = None
    folds: int = 5
    seed: int = 0
    max_rows: int = 1_000_000
    iterations: int = 200
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.l2 is not None:
            require(0 < self.l2 < math.inf, "head.l2", "above 0", self.l2)
        require(2 <= self.folds <= 64, "head.folds", "from 2 to 64", self.folds)
        require(self.max_rows >= 2, "head.max_rows", "at least 2", self.max_rows)
        require(self.iterations >= 1, "head.iterations", "at least 1", self.iterations)
