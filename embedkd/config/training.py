"""The sections that a training run depends on: student, run, optimiser, augmentation."""

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
        targets: The embedding store; None trains without targets, on ``data.shards``.
        out: The run folder.
        teacher: Identifier of a teacher in the store, or its beginning; None where the store has one.
        class_set: Class means by name; None takes the store's default set.
        epochs: Passes over the training split.
        global_batch_size: Samples a step, over all ranks.
        seed: Starts initialisation, order, augmentation and dropout.
        workers: Processes that read and decode; None decides by the hardware, 0 reads in the training process.
        device: "auto" takes CUDA where there is one.
        precision: Of the student's forward pass; "auto" is bfloat16 autocast on CUDA devices that support it.
        validate_every_epochs: Epochs between validations; the last epoch is always validated.
        checkpoint_every_steps: Steps between checkpoints, beside those at the end of each epoch; 0 writes only those.
        log_every_steps: Steps between lines of metrics.jsonl.
        allow_partial: Train although targets of some samples are missing; those samples are left out.
        allow_view_mismatch: Let losses a sample meet augmentation that moves pixels, though the teacher saw none.
        allow_random_teacher: Learn from a teacher whose weights were drawn and not trained, as a control.
    """

    targets: str | None = None
    out: str = "run"
    teacher: str | None = None
    class_set: str | None = None
    epochs: int = 30
    global_batch_size: int = 64
    seed: int = 0
    workers: int | None = None
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validate_every_epochs: int = 1
    checkpoint_every_steps: int = 0
    log_every_steps: int = 1
    allow_partial: bool = False
    allow_view_mismatch: bool = False
    allow_random_teacher: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "global_batch_size", "validate_every_epochs", "log_every_steps"):
            require(getattr(self, name) >= 1, f"train.{name}", "at least 1", getattr(self, name))
        require(
            self.checkpoint_every_steps >= 0, "train.checkpoint_every_steps", "at least 0", self.checkpoint_every_steps
        )
        require(self.workers is None or self.workers >= 0, "train.workers", "at least 0", self.workers)


@dataclass(frozen=True)
class OptimiserConfig:
    """``[optimiser]``: AdamW, linear warm-up, cosine decay.

    Attributes:
        lr: Learning rate at the end of the warm-up.
        weight_decay: Decoupled decay of matrices; norms, biases, positions and class tokens have none.
        betas: Averaging of gradients and of their squares.
        warmup_epochs: Epochs, also a fraction of one, in which the rate rises from 0 to ``lr``.
        final_lr_ratio: Rate of the last step, as a share of ``lr``.
        clip_grad_norm: Gradients of a greater global L2 norm are scaled down to it; 0 leaves them as they are.
    """

    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_epochs: float = 1.0
    final_lr_ratio: float = 0.01
    clip_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "optimiser.lr", "above 0", self.lr)
        require(0 <= self.weight_decay < math.inf, "optimiser.weight_decay", "at least 0", self.weight_decay)
        for beta in self.betas:
            require(0 <= beta < 1, "optimiser.betas", "two numbers from 0 to below 1", self.betas)
        require(0 <= self.warmup_epochs < math.inf, "optimiser.warmup_epochs", "at least 0", self.warmup_epochs)
        require(0 <= self.final_lr_ratio <= 1, "optimiser.final_lr_ratio", "from 0 to 1", self.final_lr_ratio)
        require(0 <= self.clip_grad_norm < math.inf, "optimiser.clip_grad_norm", "at least 0", self.clip_grad_norm)


@dataclass(frozen=True)
class AugmentConfig:
    """``[augment]``: the student's random view of a training image. All of these move pixels.

    Attributes:
        crop_padding_px: Pixels of padding around the resized image, out of which a crop is cut; 0 pads nothing. For
            long runs: 4 on images of 32 is usual, and needs more than 30 epochs to pay.
        min_crop_area: Least share of the image's area in a random resized crop, at aspect ratios from 3/4 to 4/3; 1
            resizes the whole image.
        flip: Probability of mirroring left and right.
    """

    crop_padding_px: int = 0
    min_crop_area: float = 1.0
    flip: float = 0.5

    def __post_init__(self) -> None:
        require(self.crop_padding_px >= 0, "augment.crop_padding_px", "at least 0", self.crop_padding_px)
        require(0 < self.min_crop_area <= 1, "augment.min_crop_area", "above 0 and at most 1", self.min_crop_area)
        require(0 <= self.flip <= 1, "augment.flip", "from 0 to 1", self.flip)

    @property
    def moves_pixels(self) -> bool:
        """Whether the student may see another view of an image than the teacher did."""
        return self.crop_padding_px > 0 or self.min_crop_area < 1 or self.flip > 0
