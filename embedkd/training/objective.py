"""What a student is asked to do: the weighted sum of named losses, each fed with what it needs."""

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from embedkd.errors import TrainingError
from embedkd.losses import MAX_LOG_SCALE, require_class_means, weighted_sum
from embedkd.seeding import stream_seed
from embedkd.students import Projection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from embedkd.losses import Input
    from embedkd.students import StudentOutput
    from embedkd.training.targets import TermTargets
    from embedkd.training.terms import Term

_NO_TAPS: Final["Mapping[str, int]"] = MappingProxyType({})


class TermLoss(nn.Module):
    """One loss with what it needs beside a batch: a projection, learned numbers, classes.

    Learned parts are functions of the seed and the loss's name, so all ranks begin with the same ones; they are in
    every checkpoint. Learned numbers are not decayed (the optimiser decays no parameter of less than two dimensions),
    and scales never exceed 100. Classes and centre are the store's, so a checkpoint leaves them out.

    Args:
        term: The loss.
        targets: What it compares with; None for a loss without a teacher.
        student_dim: Width d of the student's side.
        num_classes: Width C of the student's logits.
        class_names: For messages.
        seed: Of the projections' initialisation.

    Raises:
        TrainingError: Classes or logits of the teacher are of other classes than the data.
        LossError: A class has no row.
    """

    log_scale: nn.Parameter
    classes: "Tensor"
    centre: "Tensor | None"

    def __init__(
        self,
        term: "Term",
        targets: "TermTargets | None",
        *,
        student_dim: int,
        num_classes: int,
        class_names: "Sequence[str] | None",
        seed: int,
    ) -> None:
        super().__init__()
        self.term = term
        self.output = None if targets is None else targets.output
        stated = {} if targets is None else targets.options
        self._function = partial(term.entry.with_options(term.options), **stated)
        self.projection: Projection | None = None
        self.fusion: Projection | None = None
        for name, start in term.entry.learned.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(start)))
        self.register_buffer("centre", None if targets is None else targets.centre, persistent=False)
        if targets is not None:
            self._fit(targets, student_dim, num_classes, class_names, seed)

    def _fit(
        self,
        targets: "TermTargets",
        student_dim: int,
        num_classes: int,
        class_names: "Sequence[str] | None",
        seed: int,
    ) -> None:
        """Bring the student's side and the teacher's together."""
        term, width = self.term, targets.dim
        if term.reads("target_logits") and width != num_classes:
            raise TrainingError(
                f"losses.{term.name}: the teacher's {targets.output} are of {width} classes, the data has "
                f"{num_classes}\nfit a head on its rows with embedkd head, then name that with --teacher"
            )
        if targets.classes is not None:
            if len(targets.classes) != num_classes:
                raise TrainingError(
                    f"losses.{term.name}: the class set is of {len(targets.classes)} classes, the data has "
                    f"{num_classes}; make another with embedkd average"
                )
            require_class_means(targets.classes, class_names)
            self.register_buffer("classes", targets.classes.clone(), persistent=False)
        sides = {"student": (student_dim, width), "target": (width, student_dim)}
        if term.entry.projection is not None:
            self.projection = Projection(*sides[term.entry.projection], seed=stream_seed(seed, term.name))
        if term.reads("fusion_weight"):
            self.fusion = Projection(2 * width, width, seed=stream_seed(seed, term.name, "fusion"))

    def forward(self, answer: "StudentOutput", labels: "Tensor", targets: "Mapping[str, Tensor]") -> "Tensor":
        """The loss of a batch, a scalar; arguments as `Objective.forward`."""
        inputs: dict[Input, Tensor | None] = {
            "student": self._student(answer),
            "logits": answer.logits.float(),
            "labels": labels,
        }
        if self.output is not None:
            rows = targets[self.output].float()
            inputs["rows"] = inputs["target_logits"] = rows if self.centre is None else rows - self.centre
        if self.term.reads("classes"):
            inputs["classes"] = self.classes
        self._add_learned(inputs)
        self._project(inputs)
        value: Tensor = self._function(*(inputs.get(name) for name in self.term.entry.inputs))
        return value

    def _student(self, answer: "StudentOutput") -> "Tensor":
        tap = self.term.compares.tap
        return (answer.embedding if tap is None else answer.taps[tap]).float()

    def _add_learned(self, inputs: "dict[Input, Tensor | None]") -> None:
        for name in self.term.entry.learned:
            inputs[name] = self.get_parameter(name)
        if "log_scale" in inputs:
            with torch.no_grad():
                self.log_scale.clamp_(max=MAX_LOG_SCALE)  # or a step beyond the bound would be the last one
        if self.fusion is not None:
            inputs["fusion_weight"], inputs["fusion_bias"] = self.fusion.weight, self.fusion.bias

    def _project(self, inputs: "dict[Input, Tensor | None]") -> None:
        """Bring the side that the loss names to the other's width."""
        if self.projection is None:
            return
        sides: tuple[Input, ...] = ("student",) if self.term.entry.projection == "student" else ("rows", "classes")
        for name in sides:
            side = inputs.get(name)
            if side is not None:
                inputs[name] = self.projection(side)


class Objective(nn.Module):
    """The weighted sum of losses.

    Args:
        terms: The active losses.
        targets: Name of each loss that compares with a teacher to what it compares with.
        student_dim: Width of the student's embedding.
        num_classes: Width of its logits.
        tap_dims: Name of each inner layer that the student gives out to its width.
        class_names: For messages.
        seed: Of everything that is learned beside the student.

    Raises:
        TrainingError: A loss compares with a teacher and there is none, or with other classes; or a layer is missing.
        LossError: A class has no row.
    """

    def __init__(
        self,
        terms: "Sequence[Term]",
        *,
        targets: "Mapping[str, TermTargets]",
        student_dim: int,
        num_classes: int,
        tap_dims: "Mapping[str, int]" = _NO_TAPS,
        class_names: "Sequence[str] | None" = None,
        seed: int,
    ) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self._weights = {term.name: term.weight for term in terms}
        self._num_classes = num_classes
        self.losses = nn.ModuleDict()
        for term in self.terms:
            if term.entry.from_store and term.name not in targets:
                raise TrainingError(f"losses.{term.name} compares with a teacher; name its store with --targets")
            self.losses[term.name] = TermLoss(
                term,
                targets.get(term.name),
                student_dim=_width(term, student_dim, tap_dims),
                num_classes=num_classes,
                class_names=class_names,
                seed=seed,
            )

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
        values = {name: loss(answer, labels, targets) for name, loss in self.losses.items()}
        return weighted_sum(values, self._weights), {name: value.detach() for name, value in values.items()}

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


def _width(term: "Term", student_dim: int, tap_dims: "Mapping[str, int]") -> int:
    """Of the student's side of a loss."""
    tap = term.compares.tap
    if tap is None:
        return student_dim
    if tap not in tap_dims:
        raise TrainingError(
            f"loss_options.{term.name}.tap: expected a layer that the student gives out, got {tap}; "
            f"it gives out {', '.join(tap_dims) or 'none'}"
        )
    return tap_dims[tap]
