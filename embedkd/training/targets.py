"""What each loss compares the student with: outputs and class sets of one teacher, found and checked once."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from embedkd.errors import TrainingError, UnknownNameError
from embedkd.losses import fitted_temperature
from embedkd.records import RowStatus, blake2b_hex
from embedkd.store import default_name, set_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from embedkd.config import Config
    from embedkd.store import TeacherView
    from embedkd.training.terms import Term

_TEXT: Final = "text"
_FIT_ROWS, _FIT_NUMBERS, _FIT_SLOTS = 4096, 1 << 24, 16  # a temperature is one number: more rows change little


@dataclass(frozen=True)
class TermTargets:
    """What one loss compares the student with.

    Attributes:
        output: The output whose rows come with each batch; None where it reads none.
        dim: Width D of the teacher's side.
        classes: float32 [C, D], one row a class; None where it reads none.
        centre: float32 [D], taken off each row that comes with a batch; None for nothing.
        options: Of the loss, as the teacher states them: its scale, its bias, its fitted temperature.
    """

    output: str | None
    dim: int
    classes: "Tensor | None" = None
    centre: "Tensor | None" = None
    options: "Mapping[str, float]" = field(default_factory=dict)


def find_targets(view: "TeacherView", terms: "Sequence[Term]", config: "Config") -> dict[str, TermTargets]:
    """What each loss that has a teacher compares with, by the loss's name.

    Raises:
        UnknownNameError: The teacher has no such output or class set, or several sets and none is named.
        TrainingError: The store holds nothing yet, or two outputs of different widths meet in one loss.
        StoreError: The store cannot be trusted.
    """
    finder = _Finder(view, config)
    return {term.name: finder.find(term) for term in terms if term.entry.from_store}


def identity_of(targets: "Mapping[str, TermTargets]") -> dict[str, str]:
    """Part of the targets, beside the rows, to a digest of it: what a resumed run must share."""
    parts = {}
    for name, found in targets.items():
        for part, tensor in (("classes", found.classes), ("centre", found.centre)):
            if tensor is not None:
                parts[f"{part} of {name}"] = blake2b_hex(tensor.numpy().tobytes())
    return parts


def default_output(view: "TeacherView") -> str:
    """Where nobody names an output: the teacher's own embedding, else the first that the store has.

    Raises:
        TrainingError: The store holds nothing of the teacher.
    """
    if not view.outputs:
        raise TrainingError(f"{view.store.storage.url} holds nothing of {view.spec.name} yet; run embedkd precompute")
    wanted = [output for output in view.spec.default_outputs if output in view.outputs]
    return [*wanted, *view.spec.ordered(view.outputs)][0]


class _Finder:
    """Looks things up for the losses of one run; each class set is read once."""

    def __init__(self, view: "TeacherView", config: "Config") -> None:
        self._view = view
        self._config = config
        self._default = default_output(view)
        self._sets: dict[tuple[str, str | None], Tensor] = {}

    def find(self, term: "Term") -> TermTargets:
        compares = term.compares
        if not term.entry.per_sample:
            classes = self._classes(self._class_output(term, None), compares.class_set)
            centred = classes - _common_mean(classes) if compares.centre else classes
            return TermTargets(None, classes.shape[1], classes=centred)
        output = compares.output or term.entry.default_output or self._default
        dim = self._dim(output, term)
        if not term.reads("classes"):
            centre = self._centre(output, None) if compares.centre else None
            return TermTargets(output, dim, centre=centre, options=self._options(term, output))
        return self._find_both(term, output, dim)

    def _find_both(self, term: "Term", output: str, dim: int) -> TermTargets:
        """For losses that compare the rows of samples with classes."""
        other, compares = self._class_output(term, output), term.compares
        classes, centre = self._classes(other, compares.class_set), None
        if classes.shape[1] != dim:
            raise TrainingError(
                f"losses.{term.name}: expected classes of width {dim} as {output}, got {classes.shape[1]} of {other}; "
                "name outputs of one space with output and classes"
            )
        if compares.centre:
            centre = self._centre(output, compares.class_set if other == output else None)
            classes = classes - _common_mean(classes)
        return TermTargets(output, dim, classes, centre, self._options(term, output))

    def _class_output(self, term: "Term", output: str | None) -> str:
        """The output whose class set a loss reads, beside rows of ``output`` or alone."""
        compares, spec = term.compares, self._view.spec
        chosen = compares.classes if output is not None else compares.output
        if chosen is not None:
            return chosen
        text, fallback = spec.output(_TEXT), output or self._default
        fits = text is not None and (output is None or text.dim == self._dim(output, term))
        if not (term.entry.prefers_text and fits):
            return fallback
        sets, named = set_names(self._view, _TEXT), compares.class_set or self._config.train.class_set
        return _TEXT if sets and (named is None or named in sets) else fallback

    def _dim(self, output: str, term: "Term") -> int:
        view = self._view
        spec = view.spec.output(output)
        if spec is not None and output in view.outputs:
            return spec.dim
        if output == term.entry.default_output and term.compares.output is None:
            raise TrainingError(
                f"losses.{term.name} compares with {output}, {view.spec.name} in {view.store.storage.url} has none\n"
                "fit a head on its rows with embedkd head, then name that with --teacher"
            )
        raise UnknownNameError(f"output of {view.spec.name} in {view.store.storage.url}", output, view.outputs)

    def _classes(self, output: str, name: str | None) -> "Tensor":
        wanted = (output, name or self._config.train.class_set or self._default_set(output))
        if wanted not in self._sets:
            self._sets[wanted] = torch.tensor(self._view.class_set(wanted[1], output).mean)
        return self._sets[wanted]

    def _default_set(self, output: str) -> str | None:
        """The set that the config would make, where it is there; else the only one."""
        made, view = self._config.average, self._view
        name = default_name(
            made.per_class, made.seed, view.store.manifest.generation, method=made.method, trim=made.trim
        )
        return name if name in set_names(view, output) else None

    def _centre(self, output: str, class_set: str | None) -> "Tensor":
        """The common mean of the class means of an output, of the set that was named if that is one of this output."""
        chosen = class_set or self._config.train.class_set
        known = chosen is not None and chosen in set_names(self._view, output)
        name = chosen if known else self._default_set(output)
        return _common_mean(torch.tensor(self._view.class_set(name, output).mean))

    def _options(self, term: "Term", output: str) -> dict[str, float]:
        """What the teacher states, of that which the loss asks for and the config leaves open."""
        spec = self._view.spec
        stated = {"teacher_scale": spec.logit_scale, "teacher_bias": spec.logit_bias}
        if term.compares.fitted:
            stated["temperature"] = self._fitted_temperature(output)
        asked = set(term.entry.options) - set(term.options)
        return {name: value for name, value in stated.items() if value is not None and name in asked}

    def _fitted_temperature(self, output: str) -> float:
        """On rows spread evenly over the training split."""
        spec = self._view.spec.output(output)
        assert spec is not None
        slots = [slot for slot in self._view.store.slots if slot.shard.split == "train"]
        slots = slots[:: -(-len(slots) // _FIT_SLOTS) or 1]
        share = -(-min(_FIT_ROWS, _FIT_NUMBERS // spec.dim) // max(len(slots), 1))
        logits, labels = [], []
        for slot in slots:
            read = self._view.read(slot, output)
            usable = np.flatnonzero((read.status == RowStatus.OK) & (read.labels >= 0))
            chosen = usable[:: -(-len(usable) // share) or 1]
            logits.append(read.stored.take(chosen).decode().astype(np.float32))
            labels.append(read.labels[chosen].astype(np.int64))
        if not sum(map(len, labels)):
            raise TrainingError(
                f"{self._view.store.storage.url} has no labelled training row to fit a temperature on; "
                "give loss_options a temperature in place of fitted"
            )
        return fitted_temperature(torch.from_numpy(np.concatenate(logits)), torch.from_numpy(np.concatenate(labels)))


def _common_mean(classes: "Tensor") -> "Tensor":
    """Mean [D] over the classes that have a row."""
    return classes[classes.isfinite().all(dim=1)].double().mean(dim=0).float()
