"""What a caller must know of a loss to feed it."""

import inspect
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from embedkd.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

Input: TypeAlias = Literal[
    "student",
    "logits",
    "labels",
    "rows",
    "target_logits",
    "classes",
    "own",
    "log_scale",
    "bias",
    "fusion_weight",
    "fusion_bias",
]
CLIP_LOG_SCALE: Final = math.log(1 / 0.07)  # where CLIP's own logit scale starts
_LEARNED: Final[frozenset[Input]] = frozenset({"log_scale", "bias", "fusion_weight", "fusion_bias"})
_FROM_STORE: Final[frozenset[Input]] = frozenset({"rows", "target_logits", "classes"})


@dataclass(frozen=True)
class LossEntry:
    """A loss, as the table describes it.

    Attributes:
        function: Takes ``inputs`` by position, then its options and ``reduction`` by name.
        inputs: What it reads, in the order of its arguments: the "student"'s embeddings or its "logits", "labels",
            stored "rows" of the same samples or their "target_logits", "classes" (one row each: a class mean or a
            text), "own" (which of the gathered samples are this rank's); and what is learned beside the student.
        source: Where it was published, in one line.
        projection: Which side goes through a projection to the other's width, where widths differ.
        optional: Inputs that may be None.
        gathered: Inputs of all ranks' samples, where there are several; "own" then tells which are this rank's. The
            mean of the ranks' values is the value of one process with all samples, and gradients follow, given that
            gathering "student" passes gradients back.
        learned: Starting value of each learned number that it reads; the fusion layer is not among them.
        per_sample: Whether a target belongs to one sample, so that the student must see the view that the teacher saw.
        smallest_batch: Fewer samples give no gradient.
        default_output: The teacher's output that it compares with, where nobody names one; None for the teacher's
            embedding.
        prefers_text: Whether its classes are the teacher's class texts, where nobody says otherwise and there are any.
    """

    function: "Callable[..., Tensor]"
    inputs: tuple[Input, ...]
    source: str
    projection: Literal["target", "student"] | None = None
    optional: frozenset[Input] = frozenset()
    gathered: frozenset[Input] = frozenset()
    learned: "Mapping[Input, float]" = field(default_factory=dict)
    per_sample: bool = False
    smallest_batch: int = 1
    default_output: str | None = None
    prefers_text: bool = False

    @property
    def needs(self) -> frozenset[Input]:
        """Inputs, beside the student's embeddings and what is learned, that it cannot do without."""
        return frozenset(self.inputs) - self.optional - _LEARNED - {"student"}

    @property
    def from_store(self) -> frozenset[Input]:
        """Inputs that a teacher gave; empty where the loss compares with none."""
        return _FROM_STORE & frozenset(self.inputs)

    @property
    def options(self) -> dict[str, float | bool]:
        """Its options and their defaults, read from the signature, the one place that states them."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "reduction"}

    def with_options(self, options: "Mapping[str, object]") -> "Callable[..., Tensor]":
        """The function with those options set.

        Raises:
            UnknownNameError: It has no option of that name.
            ConfigError: A value of another type than the default's.
        """
        name = self.function.__name__
        for key, value in options.items():
            if key not in self.options:
                raise UnknownNameError(f"option of {name}", key, self.options)
            kind = type(self.options[key])
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise ConfigError(f"{name}.{key}: expected a value such as {self.options[key]}, got {value!r}")
        return partial(self.function, **options)
