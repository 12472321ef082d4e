"""The sections of a config, each with its defaults and the ranges of its values."""

import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from embedkd.config.checks import require, require_encodings, require_weights
from embedkd.config.conversion import read_dataclass
from embedkd.config.recipes import DEFAULT_RECIPE, RECIPES
from embedkd.config.tuning import FinetuneConfig, HeadConfig
from embedkd.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Option: TypeAlias = bool | int | float | str
LossWeights: TypeAlias = dict[str, float]

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class DataConfig:
    """``[data]``: which shards.

    Attributes:
        shards: Folder, glob, brace pattern or symbolic name; None takes the embedded data set when precomputing and
            the store's own shards when training.
    """

    shards: str | None = None


@dataclass(frozen=True)
class PrecomputeConfig:
    """``[precompute]``: what the teacher says, and where it is kept.

    Attributes:
        teachers: Names, each with its family where the bare one is ambiguous. All run over the data in one pass.
        out: The store.
        outputs: Names of outputs, of which each teacher computes those that it has; none takes each teacher's default.
        batch_size: Images a forward pass; fixed for a pass once it is created.
        threads: Threads of the teacher's forward pass; 0 decides by the hardware.
        decode_workers: Processes that decode images; 0 decodes in threads, None decides by the hardware.
        capacity: Rows a slot, a power of two; None takes the smallest that holds the largest shard.
        device: "auto" takes CUDA where there is one.
        precision: Of the teacher's forward pass; "auto" is bfloat16 on CUDA devices that support it, float16 on
            older ones, float32 on the CPU.
        compile: Whether new passes run a teacher compiled by `torch.compile`.
        weights: "random" draws weights by ``seed`` and reads none, for dry runs and controls.
        seed: Of random weights.
        trust_code: The one repository or folder whose own model code may be run.
        class_prompts: Templates that class names are put into for class texts: "clip", "simple" or a file; None makes
            no class texts.
        max_bad_fraction: A shard with a greater share of samples without an embedding stops the run.
        encoding: How rows are kept: "int8" for all outputs, "cls=int8" for one, "top10" for logits; float16 otherwise.
    """

    teachers: tuple[str, ...] = ("packaged:efficientnet-lite0",)
    out: str = "store.zarr"
    outputs: tuple[str, ...] = ()
    batch_size: int = 64
    threads: int = 0
    decode_workers: int | None = None
    capacity: int | None = None
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    weights: Literal["trained", "random"] = "trained"
    seed: int = 0
    trust_code: str | None = None
    class_prompts: str | None = None
    max_bad_fraction: float = 0.1
    encoding: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(len(self.teachers) >= 1, "precompute.teachers", "at least one name", self.teachers)
        require(0 <= self.max_bad_fraction <= 1, "precompute.max_bad_fraction", "from 0 to 1", self.max_bad_fraction)
        require(self.batch_size >= 1, "precompute.batch_size", "at least 1", self.batch_size)
        require(self.threads >= 0, "precompute.threads", "at least 0", self.threads)
        require(
            self.decode_workers is None or self.decode_workers >= 0,
            "precompute.decode_workers",
            "at least 0",
            self.decode_workers,
        )
        require_encodings(self.encoding, "precompute.encoding")
        if self.capacity is not None:
            fits = 1 <= self.capacity <= 16_384 and self.capacity.bit_count() == 1
            require(fits, "precompute.capacity", "a power of two up to 16384", self.capacity)


@dataclass(frozen=True)
class AverageConfig:
    """``[average]``: class means from stored rows.

    Attributes:
        per_class: Samples of the training split a class; a class with fewer uses all it has.
        seed: Chooses them.
        method: "mean", "median" of each dimension, or "trimmed", the mean without the largest and smallest values.
        trim: The share of values that "trimmed" leaves out at each side.
    """

    per_class: int = 100
    seed: int = 0
    method: Literal["mean", "median", "trimmed"] = "mean"
    trim: float = 0.1

    def __post_init__(self) -> None:
        require(self.per_class >= 1, "average.per_class", "at least 1", self.per_class)
        require(0 < self.trim < 0.5, "average.trim", "above 0 and below 0.5", self.trim)


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


@dataclass(frozen=True)
class DemoRun:
    """``[[demo.runs]]``: one of the students that ``embedkd demo`` compares.

    Attributes:
        name: Names its run folder and its row in the report.
        losses: Its weights, in place of ``[losses]``.
        allow_view_mismatch: As ``train.allow_view_mismatch``, for this run.
    """

    name: str
    losses: LossWeights
    allow_view_mismatch: bool = False
    allow_random_teacher: bool = False

    def __post_init__(self) -> None:
        require(_RUN_NAME.fullmatch(self.name) is not None, "demo.runs.name", "letters, digits and ._-", self.name)
        require_weights(self.losses, f"demo.runs.{self.name}.losses")


@dataclass(frozen=True)
class DemoConfig:
    """``[demo]``: students of one budget that differ in their losses alone."""

    runs: tuple[DemoRun, ...] = (
        DemoRun("supervised", {"cross_entropy": 1.0}),
        DemoRun("clip-embed-kd", dict(RECIPES[DEFAULT_RECIPE].losses)),
        DemoRun("sample-contrastive", {"cross_entropy": 0.5, "sample_contrastive": 0.5}, allow_view_mismatch=True),
    )

    def __post_init__(self) -> None:
        names = [run.name for run in self.runs]
        require(len(set(names)) == len(names), "demo.runs.name", "a name of its own for each run", names)


@dataclass(frozen=True)
class Config:
    """Everything about a run; the sections of a TOML file.

    ``[losses]`` of a file, or ``recipe`` at its top, takes the place of the default recipe as a whole;
    ``--set losses.NAME=WEIGHT`` changes one weight of what is there, and a weight of 0 leaves a loss out.

    Attributes:
        losses: Name of a loss to its weight in the sum.
        loss_options: Name of a loss to its options (``temperature``, ``output`` of the teacher, ...).
    """

    data: DataConfig = field(default_factory=DataConfig)
    precompute: PrecomputeConfig = field(default_factory=PrecomputeConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    losses: LossWeights = field(default_factory=lambda: dict(RECIPES[DEFAULT_RECIPE].losses))
    loss_options: dict[str, dict[str, Option]] = field(default_factory=dict)
    demo: DemoConfig = field(default_factory=DemoConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        require_weights(self.losses, "losses")
        used = set(self.losses).union(*(run.losses for run in self.demo.runs))
        for name in self.loss_options:
            if name not in used:
                raise UnknownNameError("config key", f"loss_options.{name}", [f"loss_options.{loss}" for loss in used])

    @classmethod
    def from_dict(cls, document: "Mapping[str, Any]") -> "Config":
        """Of parsed TOML, or of what ``to_dict`` gave.

        Raises:
            ConfigError: A value of another type than expected, or outside its range.
            UnknownNameError: A key that is not there.
        """
        return read_dataclass(cls, document)

    def to_dict(self) -> dict[str, Any]:
        """Every section as plain values, for config.json; ``from_dict`` gives an equal config back."""
        return asdict(self)

    def for_demo_run(self, run: DemoRun) -> "Config":
        """The same budget with the losses of one of ``demo.runs``."""
        allowed = self.train.allow_view_mismatch or run.allow_view_mismatch
        return replace(self, losses=dict(run.losses), train=replace(self.train, allow_view_mismatch=allowed))

    def training_facts(self) -> dict[str, Any]:
        """Every value that the trained weights depend on, by dotted key: what a resumed run must share.

        Where things lie (``train.targets``, ``data.shards``), what they run on and how often they are logged is free to
        change; that the data is the same is checked against the data itself.
        """
        facts = dict(_flatten(self.to_dict(), ""))
        kept = {key: value for key, value in facts.items() if key.split(".")[0] in _TRAINING and key not in _FREE}
        active = {name for name, weight in self.losses.items() if weight}
        return {k: v for k, v in kept.items() if not k.startswith("loss") or k.split(".")[1] in active}


_TRAINING = {"student", "train", "optimiser", "augment", "losses", "loss_options"}
_FREE = {
    *("train.targets", "train.out", "train.teacher", "train.class_set", "train.workers", "train.device"),
    *("train.checkpoint_every_steps", "train.log_every_steps", "train.allow_view_mismatch"),
    "train.allow_random_teacher",
}


def _flatten(value: object, key: str) -> "Iterator[tuple[str, object]]":
    if not isinstance(value, dict):
        yield key, value
        return
    for name, entry in value.items():
        yield from _flatten(entry, f"{key}.{name}" if key else str(name))
