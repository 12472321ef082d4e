"""What each loss compares the student with: outputs and class sets of its teacher, found and checked once."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch

from embedkd.errors import ConfigError, TrainingError, UnknownNameError
from embedkd.records import LOGITS, blake2b_hex
from embedkd.store import default_name, set_names
from embedkd.training.stores import speakers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from embedkd.config import Config
    from embedkd.store import TeacherView
    from embedkd.training.stores import RunTeacher
    from embedkd.training.terms import Term

_TEXT: Final = "text"


@dataclass(frozen=True)
class TermTargets:
    """What one loss compares the student with.

    Attributes:
        output: The teacher's output whose rows come with each batch; None where it reads none.
        dim: Width D of the teacher's side.
        classes: float32 [C, D], one row a class; None where it reads none.
        centre: float32 [D], taken off each row that comes with a batch, or off the classes where no rows come; None for
            nothing.
        options: Of the loss, as the teacher states them: its scale, its bias, its fitted temperature.
        scale: float32 [D], what each row is multiplied by afterwards; None for nothing.
        rows: Names under which rows come with a batch, to their share in the mean that the loss reads; none for the
            output's own name.
        class_output: The output that the classes are of.
    """

    output: str | None
    dim: int
    classes: "Tensor | None" = None
    centre: "Tensor | None" = None
    options: "Mapping[str, float]" = field(default_factory=dict)
    scale: "Tensor | None" = None
    rows: "Mapping[str, float]" = field(default_factory=dict)
    class_output: str | None = None

    @property
    def shares(self) -> "Mapping[str, float]":
        """Name of each target that comes with a batch to its share in what the loss reads."""
        return self.rows or ({} if self.output is None else {self.output: 1.0})

    def rows_of(self, targets: "Mapping[str, Tensor]") -> "Tensor":
        """What the loss reads of a batch, [B, D]; of several teachers the mean.

        Args:
            targets: Name to rows [B, D].
        """
        if len(self.shares) == 1:
            return targets[next(iter(self.shares))]
        parts = [share * targets[name].float() for name, share in self.shares.items()]
        return torch.stack(parts).sum(dim=0)


def target_name(teacher: "RunTeacher", output: str, *, several: bool) -> str:
    """Under which name rows come with a batch: the output's, behind the teacher's where there are several."""
    return f"{teacher.name}:{output}" if several else output


def teachers_of(term: "Term", teachers: "Sequence[RunTeacher]", shares: "Mapping[str, float]") -> tuple[str, ...]:
    """Names of the teachers that a loss of a run compares with: its own, or of an average all that have a share."""
    if term.teacher is not None:
        return (term.teacher,)
    return tuple(name for name in speakers(teachers, term.output) if shares[name])


def find_targets(
    teachers: "Sequence[RunTeacher]", terms: "Sequence[Term]", config: "Config", shares: "Mapping[str, float]"
) -> dict[str, TermTargets]:
    """What each loss that has a teacher compares with, by the loss's name; nothing is fitted yet.

    Args:
        teachers: All of the run.
        terms: Its losses, spread over the teachers.
        config: Its config.
        shares: Name of each teacher to its share; the weights of an average of logits are in proportion to them.

    Raises:
        UnknownNameError: The teacher has no such output or class set, or several sets and none is named.
        TrainingError: The store holds nothing yet, or outputs of different widths meet in one loss.
        StoreError: The store cannot be trusted.
    """
    finders = {teacher.name: _Finder(teacher.view, config) for teacher in teachers}
    named = {teacher.name: teacher for teacher in teachers}
    found = {}
    for term in terms:
        if not term.entry.from_store or not teachers:
            continue
        chosen = teachers_of(term, teachers, shares)
        _check_head(term, teachers, named)
        said = {name: finders[name].find(term) for name in chosen}
        widths = {name: one.dim for name, one in said.items()}
        if len(set(widths.values())) > 1:
            raise TrainingError(
                f"losses.{term.name}: expected logits of the same classes to average, got "
                f"{' and '.join(f'{width} of {name}' for name, width in widths.items())}; leave ensemble out"
            )
        first = said[chosen[0]]
        if first.output is not None and len(teachers) > 1:
            total = sum(shares[name] for name in chosen)
            rows = {
                target_name(named[name], str(one.output), several=True): shares[name] / total if len(said) > 1 else 1.0
                for name, one in said.items()
            }
            first = replace(first, rows=rows)
        found[term.name] = first
    return found


def _check_head(term: "Term", teachers: "Sequence[RunTeacher]", named: "Mapping[str, RunTeacher]") -> None:
    """Refuse a loss on logits of a named teacher that has none, where a head of the run has them."""
    heads = [teacher.name for teacher in teachers if term.teacher is not None and teacher.base == term.teacher]
    if heads and term.output == LOGITS and LOGITS not in named[str(term.teacher)].view.outputs:
        loss = term.name.partition("@")[0]
        raise ConfigError(
            f"losses.{term.name}: expected a teacher with logits, {term.teacher} has a head; name {loss}@{heads[0]}"
        )


def sources_of(
    teachers: "Sequence[RunTeacher]", targets: "Mapping[str, TermTargets]"
) -> dict[str, tuple["RunTeacher", str]]:
    """Name of each target that comes with a batch to its teacher and output, sorted."""
    several, wanted = len(teachers) > 1, {name for one in targets.values() for name in one.shares}
    known = {
        target_name(teacher, output, several=several): (teacher, output)
        for teacher in teachers
        for output in teacher.view.outputs
    }
    return {name: known[name] for name in sorted(wanted)}


def identity_of(targets: "Mapping[str, TermTargets]") -> dict[str, str]:
    """Part of the targets, beside the rows, to a digest of it: what a resumed run must share."""
    parts = {}
    for name, found in targets.items():
        for part, tensor in (("classes", found.classes), ("centre", found.centre), ("scale", found.scale)):
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
            other = self._class_output(term, None)
            classes, centre = self._classes(other, compares.class_set), None
            if compares.centre:
                centre = _common_mean(classes)
                classes = classes - centre
            return TermTargets(None, classes.shape[1], classes, centre, class_output=other)
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
        if compares.standardise and other != output:
            raise TrainingError(
                f"losses.{term.name}: expected classes of {output} to standardise with its rows, got those of {other}; "
                f"set loss_options.{term.name}.classes={output}"
            )
        if compares.centre:
            centre = self._centre(output, compares.class_set if other == output else None)
            classes = classes - _common_mean(classes)
        return TermTargets(output, dim, classes, centre, self._options(term, output), class_output=other)

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
                f"fit a head on its rows with embedkd head {view.store.storage.url}, or name another loss"
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
        asked = set(term.entry.options) - set(term.options)
        return {name: value for name, value in stated.items() if value is not None and name in asked}


def _common_mean(classes: "Tensor") -> "Tensor":
    """Mean [D] over the classes that have a row."""
    return classes[classes.isfinite().all(dim=1)].double().mean(dim=0).float()
