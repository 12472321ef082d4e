"""What a caller must know of a loss to feed it."""

import inspect
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from embedkd.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

Input: TypeAlias = Literal["student", "logits", "labels", "rows", "class_means"]


@dataclass(frozen=True)
class LossEntry:
    """A loss, as the table describes it.

    Attributes:
        function: Takes ``inputs`` by position, then its options and ``reduction`` by name.
        inputs: What it reads, in the order of its arguments: the "student"'s embeddings or its "logits", "labels",
            stored "rows" of the same samples, "class_means".
        source: Where it was published, in one line.
        projection: Which side goes through a projection to the other's width, where widths differ.
        optional: Inputs that may be None.
        per_sample: Whether a target belongs to one sample, so that the student must see the view that the teacher saw.
        smallest_batch: Fewer samples give no gradient.
    """

    function: "Callable[..., Tensor]"
    inputs: tuple[Input, ...]
    source: str
    projection: Literal["target", "student"] | None = None
    optional: frozenset[Input] = frozenset()
    per_sample: bool = False
    smallest_batch: int = 1

    @property
    def needs(self) -> frozenset[Input]:
        """Inputs, beside the student's embeddings, that it cannot do without."""
        return frozenset(self.inputs) - self.optional - {"student"}

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
