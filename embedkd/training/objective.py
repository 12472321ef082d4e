"""What a student is asked to do: the weighted sum of named losses, each fed with what it needs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from embedkd.errors import ConfigError, TrainingError
from embedkd.losses import LOSSES, LossEntry, active_weights, require_class_means, weighted_sum
from embedkd.seeding import stream_seed
from embedkd.students import Projection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from embedkd.students import StudentOutput

_OF_TEACHER = {"rows", "class_means"}


@dataclass(frozen=True)
class Term:
    """One loss with a weight above 0.

    Attributes:
        name: In the table of losses.
        weight: In the sum.
        entry: The table's.
        function: The loss with its options set.
        output: The teacher's output that it compares with; None for the default one.
    """

    name: str
    weight: float
    entry: LossEntry
    function: "Callable[..., Tensor]"
    output: str | None

    def reads(self, source: str) -> bool:
        """Whether the loss reads stored "rows", "class_means" or "labels"."""
        return source in self.entry.inputs


def build_terms(weights: "Mapping[str, float]", options: "Mapping[str, Mapping[str, object]]") -> tuple[Term, ...]:
    """The losses that must be computed, with their options.

    Args:
        weights: Name to weight; a loss of weight 0 is left out.
        options: Name to options: those of the loss, and ``output``, the teacher's output that it compares with.

    Raises:
        UnknownNameError: There is no such loss or option.
        ConfigError: An option of another type, or an output for a loss that reads nothing of a teacher.
    """
    terms = []
    for name, weight in active_weights(weights).items():
        entry, given = LOSSES[name], dict(options.get(name, {}))
        output = given.pop("output", None)
        if output is not None and not _OF_TEACHER & set(entry.inputs):
            raise ConfigError(f"loss_options.{name}.output: expected none, {name} compares with no teacher")
        if not isinstance(output, str | None):
            raise ConfigError(f"loss_options.{name}.output: expected a name, got {output!r}")
        terms.append(Term(name, weight, entry, entry.with_options(given), output))
    return tuple(terms)


@dataclass(frozen=True)
class TeacherFacts:
    """What an objective needs to know of a teacher beside the rows that come with each batch.

    Attributes:
        default_output: The output of losses that name none.
        dims: Width of each output in use.
        class_means: float32 [C, D] of each output whose class means a loss reads.
    """

    default_output: str
    dims: "Mapping[str, int]"
    class_means: "Mapping[str, Tensor]"


class Objective(nn.Module):
    """The weighted sum of losses, with a projection for each loss whose sides differ in width.

    Projections are parameters; class means are buffers that a checkpoint leaves out, as they are the store's.

    Args:
        terms: The active losses.
        student_dim: Width d of the student's embedding.
        num_classes: Width C of its logits.
        teacher: Of the losses that read rows or class means; None where none does.
        class_names: For messages.
        seed: Of the projections' initialisation.

    Raises:
        TrainingError: A loss reads a teacher and there is none, or the class means are of other classes.
        LossError: A class has no mean.
    """

    def __init__(
        self,
        terms: "Sequence[Term]",
        *,
        student_dim: int,
        num_classes: int,
        teacher: TeacherFacts | None,
        class_names: "Sequence[str] | None" = None,
        seed: int,
    ) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self._weights = {term.name: term.weight for term in terms}
        self._num_classes = num_classes
        self._outputs: dict[str, str] = {}
        self.projections = nn.ModuleDict()
        for term in self.terms:
            if not _OF_TEACHER & set(term.entry.inputs):
                continue
            if teacher is None:
                raise TrainingError(f"losses.{term.name} compares with a teacher; name its store with --targets")
            output = self._outputs[term.name] = term.output or teacher.default_output
            if term.reads("class_means"):
                self._add_means(output, teacher.class_means[output], class_names)
            sides = {"student": (student_dim, teacher.dims[output]), "target": (teacher.dims[output], student_dim)}
            if term.entry.projection is not None:
                sizes = sides[term.entry.projection]
                self.projections[term.name] = Projection(*sizes, seed=stream_seed(seed, term.name))

    def _add_means(self, output: str, means: "Tensor", class_names: "Sequence[str] | None") -> None:
        if len(means) != self._num_classes:
            raise TrainingError(
                f"the class means of {output} are of {len(means)} classes, the data has {self._num_classes}; "
                "make others with embedkd average"
            )
        require_class_means(means, class_names)
        self.register_buffer(f"means_{output}", means.clone(), persistent=False)

    @property
    def reads_labels(self) -> bool:
        """Whether a loss cannot do without labels."""
        return any("labels" in term.entry.needs for term in self.terms)

    def forward(
        self, answer: "StudentOutput", labels: "Tensor", targets: "Mapping[str, Tensor]"
    ) -> "tuple[Tensor, dict[str, Tensor]]":
        """The total and each loss by itself, unweighted; scalars, float32.

        Args:
            answer: The student's, in any precision.
            labels: int64 [B], -1 for unknown.
            targets: Output to rows [B, D].
        """
        embedding, logits = answer.embedding.float(), answer.logits.float()
        values = {}
        for term in self.terms:
            inputs = {"student": embedding, "logits": logits, "labels": labels}
            output = self._outputs.get(term.name)
            if term.reads("rows"):
                inputs["rows"] = targets[output or ""]
            if term.reads("class_means"):
                inputs["class_means"] = self.get_buffer(f"means_{output}")
            self._project(term, inputs)
            values[term.name] = term.function(*(inputs[name] for name in term.entry.inputs))
        return weighted_sum(values, self._weights), {name: value.detach() for name, value in values.items()}

    def _project(self, term: Term, inputs: "dict[str, Tensor]") -> None:
        """Bring the side that the loss names to the other's width."""
        if term.entry.projection is None:
            return
        sides = ("student",) if term.entry.projection == "student" else ("rows", "class_means")
        for name in sides:
            if name in inputs:
                inputs[name] = self.projections[term.name](inputs[name])

    def check_labels(self, keys: "Sequence[str]", labels: "Tensor") -> None:
        """Refuse labels that a loss could not use; they must lie on the CPU, where a look costs nothing.

        Raises:
            TrainingError: A label is missing or is no class; the sample is named.
        """
        if not self.reads_labels:
            return
        wrong = ((labels < 0) | (labels >= self._num_classes)).nonzero().flatten().tolist()
        if wrong:
            key, label = keys[wrong[0]], int(labels[wrong[0]])
            what = "no label" if label < 0 else f"label {label}"
            raise TrainingError(f"sample {key} has {what}; expected one of {self._num_classes} classes, from 0")


def check_batch_size(terms: "Sequence[Term]", batch_size: int) -> None:
    """Refuse batches that a loss learns nothing from.

    Raises:
        ConfigError: A loss needs more samples.
    """
    for term in terms:
        least = term.entry.smallest_batch
        if batch_size < least:
            raise ConfigError(f"train.global_batch_size: expected at least {least} for {term.name}, got {batch_size}")
