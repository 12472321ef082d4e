"""The losses of a run as its config names them: weights, options, and what of which teacher each compares with.

With several teachers a loss is computed for each: ``mse`` becomes ``mse@NAME`` for every name, and its weight is
divided among them, so that the balance between the losses stays as it was. A config may name ``mse@NAME`` itself, for a
loss that compares with that teacher alone, or for options of it.
"""

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError, UnknownNameError
from embedkd.losses import LOSSES, LossEntry, active_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

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
        standardise: Whether rows are standardised: each dimension to mean 0 and standard deviation 1 over the training
            rows; with them the classes, which then must be of the same output.
        ensemble: Whether the logits of all teachers are averaged, so that the loss has one teacher.
        fitted: Whether the temperature is the one at which the teacher's probabilities fit the training labels best.
        tap: Inner layer of the student that is compared in place of its embedding.
    """

    output: str | None = None
    classes: str | None = None
    class_set: str | None = None
    centre: bool = False
    standardise: bool = False
    ensemble: bool = False
    fitted: bool = False
    tap: str | None = None


@dataclass(frozen=True)
class Term:
    """One loss with a weight above 0.

    Attributes:
        name: In the table of losses; behind ``@`` the teacher, where the run has several.
        weight: In the sum.
        entry: The table's.
        options: Those of the loss that were given.
        compares: What it compares.
        teacher: The only teacher that it compares with, by its name in the run; None for all there are.
    """

    name: str
    weight: float
    entry: LossEntry
    options: "Mapping[str, object]" = field(default_factory=dict)
    compares: Comparison = field(default_factory=Comparison)
    teacher: str | None = None

    @property
    def output(self) -> str | None:
        """The output that it compares with, where it is not each teacher's own embedding."""
        return self.compares.output or self.entry.default_output

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
        "standardise": "rows" in reads,
        "ensemble": "target_logits" in reads,
        "fitted": "target_logits" in reads,
        "tap": "student" in reads and bool(entry.from_store),
    }
    return {name: getattr(Comparison, name) for name, wanted in meant.items() if wanted}


def build_terms(weights: "Mapping[str, float]", options: "Mapping[str, Mapping[str, object]]") -> tuple[Term, ...]:
    """The losses that must be computed, with their options.

    Args:
        weights: Name to weight; a loss of weight 0 is left out. ``mse@NAME`` is a loss with one of several teachers.
        options: Name to options: those of the loss, and those of `Comparison`. Those of ``mse`` hold for ``mse@NAME``.

    Raises:
        UnknownNameError: There is no such loss or option.
        ConfigError: An option of another type, or two that exclude each other.
    """
    return tuple(_build_term(name, weight, options) for name, weight in active_weights(weights).items())


def _build_term(name: str, weight: float, options: "Mapping[str, Mapping[str, object]]") -> Term:
    loss, _, teacher = name.partition("@")
    entry, given = LOSSES[loss], {**options.get(loss, {}), **options.get(name, {})}
    if teacher and not entry.from_store:
        raise ConfigError(f"losses.{name}: expected {loss} alone, it compares with no teacher")
    about, known = comparison_options(entry), {one.name for one in fields(Comparison)}
    for key, value in given.items():
        if key in about:
            _check_type(name, key, value)
        elif key in known:
            raise ConfigError(f"loss_options.{name}.{key}: expected none, {_why_not(entry)}")
        elif key not in entry.options:
            raise UnknownNameError(f"option of {loss}", key, [*entry.options, *about])
    own = {key: value for key, value in given.items() if key not in about}
    entry.with_options(own)  # it looks at their types
    compares = Comparison(**{key: value for key, value in given.items() if key in about})  # type: ignore[arg-type]
    term = Term(name, weight, entry, own, compares, teacher or None)
    _check_one_of_two(term)
    return term


def _check_one_of_two(term: Term) -> None:
    """Refuse options that exclude each other."""
    compares = term.compares
    for first, second, both in (
        ("a temperature", "fitted = true", compares.fitted and "temperature" in term.options),
        ("ensemble = true", "fitted = true", compares.ensemble and compares.fitted),
        ("centre = true", "standardise = true", compares.centre and compares.standardise),
        ("ensemble = true", f"one teacher, {term.teacher}", compares.ensemble and term.teacher is not None),
    ):
        if both:
            raise ConfigError(f"loss_options.{term.name}: expected {first} or {second}, got both")


def spread_terms(
    terms: "Sequence[Term]",
    shares: "Mapping[str, float]",
    options: "Mapping[str, Mapping[str, object]]",
    speakers: "Callable[[str | None], Collection[str]] | None" = None,
) -> tuple[Term, ...]:
    """The losses of a run with its teachers: one for each teacher, where several are compared with.

    Args:
        terms: As the config names them.
        shares: Name of each teacher to its share of a loss's weight; they add up to 1.
        options: As for `build_terms`.
        speakers: From the output that a loss compares with to the names of the teachers that take part in it, among
            whom its weight is divided; None for all of them.

    Raises:
        UnknownNameError: A loss or its options name a teacher that the run has not.
        ConfigError: A loss is named both for all teachers and for one, or all that take part in it have the weight 0.
    """
    for name in (*(term.name for term in terms), *options):
        loss, _, teacher = name.partition("@")
        if teacher and teacher not in shares:
            raise UnknownNameError(f"teacher of {loss}", teacher, shares)
    own = {term.name for term in terms}
    spread: list[Term] = []
    for term in terms:
        alone = {f"{term.name}@{teacher}" for teacher in shares}
        if both := sorted(alone & own):
            raise ConfigError(f"losses: expected {term.name} for all teachers or {both[0]}, got both")
        if term.compares.ensemble and (both := sorted(alone & set(options))):
            raise ConfigError(f"loss_options.{term.name}: expected ensemble = true or {both[0]}, got both")
        if not term.entry.from_store or term.teacher is not None or not shares:
            spread.append(term)
            continue
        chosen = dict(shares) if speakers is None else {name: shares[name] for name in speakers(term.output)}
        for teacher in shares.keys() - chosen.keys():
            if f"{term.name}@{teacher}" in options:
                raise ConfigError(
                    f"loss_options.{term.name}@{teacher}: expected one of those that {term.name} compares with "
                    f"({', '.join(chosen)}), got {teacher}"
                )
        spread += [term] if term.compares.ensemble else _for_each(term, chosen, options)
        if not sum(chosen.values()):
            raise ConfigError(f"train.teacher_weights: expected one above 0 for {term.name}, got 0 for {min(chosen)}")
    return tuple(spread)


def _for_each(
    term: Term, shares: "Mapping[str, float]", options: "Mapping[str, Mapping[str, object]]"
) -> "Iterator[Term]":
    """A loss for each of its teachers, among whom its weight is divided."""
    total = sum(shares.values())
    for teacher, share in shares.items():
        if share:
            name = f"{term.name}@{teacher}"
            named = _build_term(name, term.weight * share / total, options)
            yield named if len(shares) > 1 else replace(named, name=term.name)


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
