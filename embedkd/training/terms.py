"""The losses of a run as its config names them: weights, options, and what of the teacher each compares with."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError, UnknownNameError
from embedkd.losses import LOSSES, LossEntry, active_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedkd.losses import Input


@dataclass(frozen=True)
class Comparison:
    """What a loss compares: options that are not its own, but of whoever feeds it.

    Attributes:
        output: The teacher's output; None for the default one. Of a loss that reads classes alone, that of the classes.
        classes: The output whose class set gives the classes, of a loss that reads rows too; None for the texts where
            the loss prefers them and the store has them, else for that of the rows.
        class_set: Name of that class set; None for the default one.
        centre: Whether the common mean of the classes is taken off everything of the teacher's.
        fitted: Whether the temperature is the one at which the teacher's probabilities fit the training labels best.
        tap: Inner layer of the student that is compared in place of its embedding.
    """

    output: str | None = None
    classes: str | None = None
    class_set: str | None = None
    centre: bool = False
    fitted: bool = False
    tap: str | None = None


@dataclass(frozen=True)
class Term:
    """One loss with a weight above 0.

    Attributes:
        name: In the table of losses.
        weight: In the sum.
        entry: The table's.
        options: Those of the loss that were given.
        compares: What it compares.
    """

    name: str
    weight: float
    entry: LossEntry
    options: "Mapping[str, object]" = field(default_factory=dict)
    compares: Comparison = field(default_factory=Comparison)

    def reads(self, source: "Input") -> bool:
        """Whether the loss reads "rows", "classes", "labels", ..."""
        return source in self.entry.inputs


def comparison_options(entry: LossEntry) -> dict[str, str | bool | None]:
    """The options of `Comparison` that mean something for a loss, and their defaults."""
    reads = set(entry.inputs)
    meant = {
        "output": bool(entry.from_store),
        "classes": {"rows", "classes"} <= reads,
        "class_set": "classes" in reads,
        "centre": bool({"rows", "classes"} & reads),
        "fitted": "target_logits" in reads,
        "tap": "student" in reads and bool(entry.from_store),
    }
    return {name: getattr(Comparison, name) for name, wanted in meant.items() if wanted}


def build_terms(weights: "Mapping[str, float]", options: "Mapping[str, Mapping[str, object]]") -> tuple[Term, ...]:
    """The losses that must be computed, with their options.

    Args:
        weights: Name to weight; a loss of weight 0 is left out.
        options: Name to options: those of the loss, and those of `Comparison`.

    Raises:
        UnknownNameError: There is no such loss or option.
        ConfigError: An option of another type, or two that exclude each other.
    """
    return tuple(_build_term(name, weight, options.get(name, {})) for name, weight in active_weights(weights).items())


def _build_term(name: str, weight: float, given: "Mapping[str, object]") -> Term:
    entry = LOSSES[name]
    about, known = comparison_options(entry), {one.name for one in fields(Comparison)}
    for key, value in given.items():
        if key in about:
            _check_type(name, key, value)
        elif key in known:
            raise ConfigError(f"loss_options.{name}.{key}: expected none, {_why_not(entry)}")
        elif key not in entry.options:
            raise UnknownNameError(f"option of {name}", key, [*entry.options, *about])
    own = {key: value for key, value in given.items() if key not in about}
    entry.with_options(own)  # it looks at their types
    compares = Comparison(**{key: value for key, value in given.items() if key in about})  # type: ignore[arg-type]
    if compares.fitted and "temperature" in own:
        raise ConfigError(f"loss_options.{name}: expected a temperature or fitted = true, got both")
    return Term(name, weight, entry, own, compares)


def _why_not(entry: LossEntry) -> str:
    name = entry.function.__name__
    return f"{name} reads {', '.join(sorted(entry.from_store))}" if entry.from_store else f"{name} has no teacher"


def _check_type(name: str, key: str, value: object) -> None:
    if isinstance(getattr(Comparison, key), bool):
        fits, expected = isinstance(value, bool), "true or false"
    else:
        fits, expected = isinstance(value, str), "a name"
    if not fits:
        raise ConfigError(f"loss_options.{name}.{key}: expected {expected}, got {value!r}")


def check_batch_size(terms: "Sequence[Term]", batch_size: int) -> None:
    """Refuse batches that a loss learns nothing from.

    Raises:
        ConfigError: A loss needs more samples.
    """
    for term in terms:
        least = term.entry.smallest_batch
        if batch_size < least:
            raise ConfigError(f"train.global_batch_size: expected at least {least} for {term.name}, got {batch_size}")
