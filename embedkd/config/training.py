"""The sections that a training run depends on: student, run, optimiser."""

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from embedkd.config.checks import require

Option: TypeAlias = bool | int | float | str


@dataclass(frozen=True)
class StudentConfig:
    """``[student]``: the model that learns.

    Attributes:
        name: The paper's (``vit-base``), any model of timm (``timm:resnet18``), or torchvision's name of one; ``@`` and
            a file, an export or a run folder gives it weights to begin with, and so does a tag of timm.
        image_px: Height and width of its input.
        patch_px: Height and width of a patch; None takes the student's own.
        drop_path: Probability that a residual branch of the last block is left out while training.
        dropout: Of attention weights while training.
        mask_ratio: Share of an image's patches that the student does not see while training.
        options: Further arguments of timm's model (``drop_rate``, ``global_pool``, ...).
    """

    name: str = "vit-tiny"
    image_px: int = 32
    patch_px: int | None = None
    drop_path: float = 0.0
    dropout: float = 0.0
    mask_ratio: float = 0.0
    options: dict[str, Option] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.image_px >= 1, "student.image_px", "at least 1", self.image_px)
        if self.patch_px is not None:
            fits = self.patch_px >= 1 and self.image_px % self.patch_px == 0
            require(fits, "student.patch_px", f"a divisor of student.image_px = {self.image_px}", self.patch_px)
        require(0 <= self.drop_path < 1, "student.drop_path", "at least 0 and below 1", self.drop_path)
        require(0 <= self.dropout < 1, "student.dropout", "at least 0 and below 1", self.dropout)
        require(0 <= self.mask_ratio < 1, "student.mask_ratio", "at least 0 and below 1", self.mask_ratio)


@dataclass(frozen=True)
class TrainConfig:
    """``[train]``: how long, on what, and where the run lies.

    Attributes:
        targets: Embedding stores, each with ``#`` and a teacher where that is not ``teacher``; none trains without
            targets, on ``data.shards``.
        out: The run folder.
        teacher: Identifier of a teacher in each store, or its beginning; None where a store has one.
        teacher_weights: Name of a teacher in the run (``vit-l-32``) to its weight among several, 1 where it is not
            named, and a head that of its teacher. The weight of each loss is divided among the teachers in these
            proportions.
        teacher_drop: Probability that a step does without a teacher and its head, of several; one of them always stays,
            and the weights of those that stay grow so that the expectation is the same.
        views: Stored views of the teachers that the student sees, one an epoch; None takes all there are, 0 the plain
            images.
        class_set: Class means by name; None takes the store's default set.
        val_fraction: Share of each class of the training split that is held out to choose the best student, where the
            data has no validation split; 0 holds none out and keeps the last epoch's student.
        epochs: Passes over the training split.
        global_batch_size: Samples a step, over all ranks.
        accumulate: Forward passes a step, each with its share of ``global_batch_size``, for less memory; losses over
            the batch then compare the samples of one pass.
        ema_decay: Share that a moving average of the student's weights keeps a step; the average is then what is
            validated and kept. 0 keeps none.
        compile: Whether the student's forward and backward pass are compiled by `torch.compile`.
        seed: Starts initialisation, order, augmentation and dropout.
        workers: Processes that read and decode; None decides by the hardware, 0 reads in the training process.
        device: "auto" takes CUDA where there is one.
        precision: Of the student's forward pass; "auto" is bfloat16 autocast on CUDA devices that support it.
        validate_every_epochs: Epochs between validations; the last epoch is always validated.
        checkpoint_every_steps: Steps between checkpoints, beside those at the end of each epoch; 0 writes only those.
        log_every_steps: Steps between lines of metrics.jsonl.
        logs: Where these lines go besides: "tensorboard" writes event files into the run folder, "wandb" and "mlflow"
            need the extra of that name.
        keep_unlabelled: Samples without a label take part too, in the losses that do without one; for the others they
            count 0.
        allow_partial: Train although targets of some samples are missing; those samples are left out.
        allow_view_mismatch: Let losses a sample meet augmentation that moves pixels, though the teacher saw none.
        allow_random_teacher: Learn from a teacher whose weights were drawn and not trained, as a control.
        online_teacher: Run the teacher in every step, on what the student sees, in place of its stored rows.
        online_weights: Name or path to load that teacher by; None takes what the store recorded.
    """

    targets: tuple[str, ...] = ()
    out: str = "run"
    teacher: str | None = None
    teacher_weights: dict[str, float] = field(default_factory=dict)
    teacher_drop: float = 0.0
    views: int | None = None
    class_set: str | None = None
    val_fraction: float = 0.1
    epochs: int = 30
    global_batch_size: int = 64
    accumulate: int = 1
    ema_decay: float = 0.0
    compile: bool = False
    seed: int = 0
    workers: int | None = None
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validate_every_epochs: int = 1
    checkpoint_every_steps: int = 0
    log_every_steps: int = 1
    logs: tuple[str, ...] = ("tensorboard",)
    keep_unlabelled: bool = False
    allow_partial: bool = False
    allow_view_mismatch: bool = False
    allow_random_teacher: bool = False
    online_teacher: bool = False
    online_weights: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "global_batch_size", "accumulate", "validate_every_epochs", "log_every_steps"):
            require(getattr(self, name) >= 1, f"train.{name}", "at least 1", getattr(self, name))
        require(
            self.checkpoint_every_steps >= 0, "train.checkpoint_every_steps", "at least 0", self.checkpoint_every_steps
        )
        for name, weight in self.teacher_weights.items():
            require(0 <= weight < math.inf, f"train.teacher_weights.{name}", "a weight of at least 0", weight)
        require(0 <= self.teacher_drop < 1, "train.teacher_drop", "at least 0 and below 1", self.teacher_drop)
        require(self.views is None or self.views >= 0, "train.views", "at least 0", self.views)
        require(0 <= self.val_fraction < 1, "train.val_fraction", "at least 0 and below 1", self.val_fraction)
        require(self.workers is None or self.workers >= 0, "train.workers", "at least 0", self.workers)
        require(0 <= self.ema_decay < 1, "train.ema_decay", "at least 0 and below 1", self.ema_decay)
        fits, expected = self.global_batch_size % self.accumulate == 0, "a divisor of train.global_batch_size"
        require(fits, "train.accumulate", f"{expected} = {self.global_batch_size}", self.accumulate)


@dataclass(frozen=True)
class OptimiserConfig:
    """``[optimiser]``: how gradients become steps, and how the rate changes over them.

    Attributes:
        name: "adamw"; "sgd" with momentum; "lamb" for large batches.
        lr: Learning rate at the end of the warm-up.
        weight_decay: Of matrices, decoupled for AdamW; norms, biases, positions and class tokens have none.
        betas: Averaging of gradients and of their squares, for AdamW and LAMB.
        momentum: Share of the last step that SGD keeps.
        nesterov: Whether SGD looks ahead along it.
        schedule: Of the rate after the warm-up: "cosine" or "linear" down to ``final_lr_ratio``, "step" down at every
            ``decay_epochs``, "constant".
        warmup_epochs: Epochs, also a fraction of one, in which the rate rises from 0 to ``lr``.
        final_lr_ratio: Rate of the last step, as a share of ``lr``, for "cosine" and "linear".
        decay_epochs: Epochs, also a fraction of one, between the drops of "step", from the end of the warm-up on.
        decay_rate: What a drop leaves of the rate.
        clip_grad_norm: Gradients of a greater global L2 norm are scaled down to it; 0 leaves them as they are.
    """

    name: Literal["adamw", "sgd", "lamb"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    nesterov: bool = True
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    final_lr_ratio: float = 0.01
    decay_epochs: float = 30.0
    decay_rate: float = 0.1
    clip_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "optimiser.lr", "above 0", self.lr)
        require(0 <= self.weight_decay < math.inf, "optimiser.weight_decay", "at least 0", self.weight_decay)
        for beta in self.betas:
            require(0 <= beta < 1, "optimiser.betas", "two numbers from 0 to below 1", self.betas)
        require(0 <= self.momentum < 1, "optimiser.momentum", "at least 0 and below 1", self.momentum)
        require(0 < self.decay_epochs < math.inf, "optimiser.decay_epochs", "above 0", self.decay_epochs)
        require(0 < self.decay_rate <= 1, "optimiser.decay_rate", "above 0 and at most 1", self.decay_rate)
        require(0 <= self.warmup_epochs < math.inf, "optimiser.warmup_epochs", "at least 0", self.warmup_epochs)
        require(0 <= self.final_lr_ratio <= 1, "optimiser.final_lr_ratio", "from 0 to 1", self.final_lr_ratio)
        require(0 <= self.clip_grad_norm < math.inf, "optimiser.clip_grad_norm", "at least 0", self.clip_grad_norm)
