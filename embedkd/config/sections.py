"""The sections of a config, each with its defaults and the ranges of its values."""

import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from embedkd.config.augmentation import AugmentConfig
from embedkd.config.checks import require, require_encodings, require_weights
from embedkd.config.conversion import read_dataclass
from embedkd.config.recipes import RECIPES
from embedkd.config.training import OptimiserConfig, Option, StudentConfig, TrainConfig
from embedkd.config.tuning import FinetuneConfig, HeadConfig
from embedkd.errors import UnknownNameError
from embedkd.records import MAX_VIEWS, ViewSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
        views: Stored views of each teacher beside its own rows: the same model on fixed random crops.
        view_seed: Of their draw.
        view_min_crop_area: Smallest share of an image's area that a view shows.
        view_flip: Probability that a view mirrors an image.
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
    views: int = 0
    view_seed: int = 0
    view_min_crop_area: float = 0.35
    view_flip: float = 0.5

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
        require(0 <= self.views <= MAX_VIEWS, "precompute.views", f"from 0 to {MAX_VIEWS}", self.views)
        require(0 <= self.view_seed < 1 << 63, "precompute.view_seed", "from 0 to 2**63 - 1", self.view_seed)
        least = self.view_min_crop_area
        require(0 < least <= 1, "precompute.view_min_crop_area", "above 0, at most 1", least)
        require(0 <= self.view_flip <= 1, "precompute.view_flip", "from 0 to 1", self.view_flip)

    @property
    def view_specs(self) -> tuple[ViewSpec, ...]:
        """The views that are wanted, by index."""
        facts = (float(self.view_min_crop_area), float(self.view_flip))
        return tuple(ViewSpec(self.view_seed, index, *facts) for index in range(self.views))


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
        DemoRun("clip-embed-kd", dict(RECIPES["clip-embed-kd"].losses)),
        DemoRun("sample-contrastive", {"cross_entropy": 0.5, "sample_contrastive": 0.5}, allow_view_mismatch=True),
    )

    def __post_init__(self) -> None:
        names = [run.name for run in self.runs]
        require(len(set(names)) == len(names), "demo.runs.name", "a name of its own for each run", names)


@dataclass(frozen=True)
class Config:
    """Everything about a run; the sections of a TOML file.

    ``[losses]`` of a file, or ``recipe`` at its top, takes the place of the default recipe as a whole;
    ``--set losses.NAME=WEIGHT`` changes one weight of what is there, and a weight of 0 leaves a loss out. The default
    recipe is what `load_config` puts where nothing else is: a config made by hand has the losses that it is given.

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
    losses: LossWeights = field(default_factory=dict)
    loss_options: dict[str, dict[str, Option]] = field(default_factory=dict)
    demo: DemoConfig = field(default_factory=DemoConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        if self.losses:
            require_weights(self.losses, "losses")
        used = {_loss_of(name) for losses in (self.losses, *(run.losses for run in self.demo.runs)) for name in losses}
        for name in self.loss_options:
            if _loss_of(name) not in used:
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
        used = {_loss_of(name) for name in run.losses}
        allowed = self.train.allow_view_mismatch or run.allow_view_mismatch
        return replace(
            self,
            losses=dict(run.losses),
            loss_options={name: one for name, one in self.loss_options.items() if _loss_of(name) in used},
            train=replace(self.train, allow_view_mismatch=allowed),
        )

    def training_facts(self) -> dict[str, Any]:
        """Every value that the trained weights depend on, by dotted key: what a resumed run must share.

        Where things lie (``train.targets``, ``data.shards``), what they run on and how often they are logged is free to
        change; that the data is the same is checked against the data itself.
        """
        facts = dict(_flatten(self.to_dict(), ""))
        kept = {key: value for key, value in facts.items() if key.split(".")[0] in _TRAINING and key not in _FREE}
        active = {_loss_of(name) for name, weight in self.losses.items() if weight}
        facts = {k: v for k, v in kept.items() if not k.startswith("loss") or _loss_of(k.split(".")[1]) in active}
        # The optimiser knows parameters by their place: in another order it would go on with others' moments.
        return facts | {"order of losses": ", ".join(name for name, weight in self.losses.items() if weight)}


_TRAINING = {"student", "train", "optimiser", "augment", "losses", "loss_options"}
_FREE = {
    *("train.targets", "train.out", "train.teacher", "train.class_set", "train.workers", "train.device"),
    *("train.checkpoint_every_steps", "train.log_every_steps", "train.logs", "train.allow_view_mismatch"),
    *("train.allow_random_teacher", "train.compile", "train.online_weights"),
}


def _loss_of(name: str) -> str:
    """The loss of ``mse@NAME``, which compares with one of several teachers."""
    return name.partition("@")[0]


def _flatten(value: object, key: str) -> "Iterator[tuple[str, object]]":
    if not isinstance(value, dict):
        yield key, value
        return
    for name, entry in value.items():
        yield from _flatten(entry, f"{key}.{name}" if key else str(name))
