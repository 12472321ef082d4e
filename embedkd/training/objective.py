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
from embedkd.training.division import Share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from embedkd.losses import Input
    from embedkd.students import StudentOutput
    from embedkd.training.targets import TermTargets
    from embedkd.training.terms import Term

_NO_TAPS: Final["Mapping[str, int]"] = MappingProxyType({})
_NO_FACTORS: Final["Mapping[str, float]"] = MappingProxyType({})


class Gatherer:
    """Brings together what all ranks have of an input, once however many losses read it.

    Args:
        share: What this rank has of the forward pass; None where there is but one process.
    """

    def __init__(self, share: Share | None) -> None:
        self.share = None if share is None or share.alone else share
        self._gathered: dict[int, tuple[Tensor, Tensor]] = {}  # by identity, with the tensor that has it

    def __call__(self, rows: "Tensor") -> "Tensor":
        """Rows [B, ...] of this rank to those of all [N, ...]."""
        if self.share is None:
            return rows
        if id(rows) not in self._gathered:
            self._gathered[id(rows)] = (rows, self.share.gather(rows))
        return self._gathered[id(rows)][1]


class TermLoss(nn.Module):
    """One loss with what it needs beside a batch: a projection, learned numbers, classes.

    Learned parts are functions of the seed and the loss's name, so all ranks begin with the same ones; they are in
    every checkpoint. Learned numbers are not decayed (the optimiser decays no parameter of less than two dimensions),
    and scales never exceed 100. Classes, centre and scale are the store's, so a checkpoint leaves them out.

    Args:
        term: The loss.
        targets: What it compares with; None for a loss without a teacher.
        student_dim: Width d of the student's side.
        num_classes: Width C of the student's logits.
        class_names: For messages.
        seed: Of the projections' initialisation.
        unlabelled: Whether samples without a label come along, for which a loss that needs one counts 0.

    Raises:
        TrainingError: Classes or logits of the teacher are of other classes than the data.
        LossError: A class has no row.
    """

    log_scale: nn.Parameter
    classes: "Tensor"
    centre: "Tensor | None"
    scale: "Tensor | None"

    def __init__(
        self,
        term: "Term",
        targets: "TermTargets | None",
        *,
        student_dim: int,
        num_classes: int,
        class_names: "Sequence[str] | None",
        seed: int,
        unlabelled: bool = False,
    ) -> None:
        super().__init__()
        self.term = term
        self._passes_over = unlabelled and "labels" in term.entry.needs
        self._targets = targets
        stated = {} if targets is None else targets.options
        self._function = partial(term.entry.with_options(term.options), **stated)
        self.projection: Projection | None = None
        self.fusion: Projection | None = None
        for name, start in term.entry.learned.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(start)))
        self.register_buffer("centre", None if targets is None else targets.centre, persistent=False)
        self.register_buffer("scale", None if targets is None else targets.scale, persistent=False)
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
                f"{num_classes}\nfit a head on its rows with embedkd head; it is found in the store by itself"
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

    def forward(
        self, answer: "StudentOutput", labels: "Tensor", targets: "Mapping[str, Tensor]", gather: Gatherer | None = None
    ) -> "Tensor":
        """The loss of a batch, a scalar; arguments as `Objective.forward`."""
        gather, gathered = gather or Gatherer(None), self.term.entry.gathered
        student = self._student(answer)
        inputs: dict[Input, Tensor | None] = {
            "student": (gather(student) if "student" in gathered else student).float(),
            "logits": answer.logits.float(),
            "labels": gather(labels) if "labels" in gathered else labels,
        }
        if gather.share is not None:
            inputs["own"] = gather.share.own.to(labels.device)
        if self._targets is not None and self._targets.shares:
            rows = self._targets.rows_of(targets)
            rows = (gather(rows) if "rows" in gathered else rows).float()
            rows = rows if self.centre is None else rows - self.centre
            inputs["rows"] = inputs["target_logits"] = rows if self.scale is None else rows * self.scale
        if self.term.reads("classes"):
            inputs["classes"] = self.classes
        self._add_learned(inputs)
        self._project(inputs)
        if self._passes_over:
            return self._of_labelled(inputs, labels)
        value: Tensor = self._function(*(inputs.get(name) for name in self.term.entry.inputs))
        return value

    def _of_labelled(self, inputs: "dict[Input, Tensor | None]", labels: "Tensor") -> "Tensor":
        """The sum over samples with a label, divided by all samples: so shares of any batch add up to its whole."""
        inputs["labels"] = labels.clamp(min=0)  # any class will do: a choice of rows would make a GPU wait
        values = self._function(*(inputs.get(name) for name in self.term.entry.inputs), reduction="none")
        return values.where(labels >= 0, 0.0).mean()

    def _student(self, answer: "StudentOutput") -> "Tensor":
        tap = self.term.compares.tap
        return answer.embedding if tap is None else answer.taps[tap]

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
        unlabelled: Whether samples without a label come along, for which losses that need one count 0.

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
        unlabelled: bool = False,
    ) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self._weights = {term.name: term.weight for term in terms}
        self._num_classes = num_classes
        self._unlabelled = unlabelled
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
                unlabelled=unlabelled,
            )

    @property
    def reads_labels(self) -> bool:
        """Whether a loss cannot do without labels."""
        return any("labels" in term.entry.needs for term in self.terms)

    def forward(
        self,
        answer: "StudentOutput",
        labels: "Tensor",
        targets: "Mapping[str, Tensor]",
        share: Share | None = None,
        factors: "Mapping[str, float]" = _NO_FACTORS,
    ) -> "tuple[Tensor, dict[str, Tensor]]":
        """The total and each loss by itself, unweighted; scalars, float32.

        Args:
            answer: The student's, in any precision.
            labels: int64 [B], -1 for unknown.
            targets: Name of a target to rows [B, D].
            share: What this rank has of all ranks' samples: losses over the batch compare with those of all. The
                values are of this rank's samples; None where there is but one process.
            factors: Name of a loss to what multiplies its weight in this step; 1 where it is not named. A loss of
                factor 0 is computed all the same, so that every step has gradients of the same parameters.
        """
        gather = Gatherer(share)
        values = {name: loss(answer, labels, targets, gather) for name, loss in self.losses.items()}
        weighted = {name: value * factors[name] if name in factors else value for name, value in values.items()}
        return weighted_sum(weighted, self._weights), {name: value.detach() for name, value in values.items()}

    def check_labels(self, keys: "Sequence[str]", labels: "Tensor") -> None:
        """Refuse labels that a loss could not use; they must lie on the CPU, where a look costs nothing.

        Raises:
            TrainingError: A label is missing or is no class; the sample is named.
        """
        if not self.reads_labels:
            return
        least = -1 if self._unlabelled else 0
        wrong = ((labels < least) | (labels >= self._num_classes)).nonzero().flatten().tolist()
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
