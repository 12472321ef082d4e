"""Where a run's losses let student and teacher meet: the spaces in which they were compared, with what was learned."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch

from embedkd.errors import TrainingError
from embedkd.records import LOGITS
from embedkd.store import set_names
from embedkd.store.heads import is_derived, is_head_on
from embedkd.training.data import open_data, rows_of_split
from embedkd.training.objective import Objective
from embedkd.training.saved import load_projections
from embedkd.training.stores import named_entries
from embedkd.training.targets import default_output
from embedkd.training.terms import build_terms

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from embedkd.config import Config
    from embedkd.evaluation.looking import Look
    from embedkd.join import Samples
    from embedkd.records import Split, TeacherSpec
    from embedkd.rundir import RunDir
    from embedkd.store import TeacherView
    from embedkd.training.data import TrainingData
    from embedkd.training.objective import TermLoss
    from embedkd.training.stores import RunTeacher

TEXT: Final = "text"
_IMAGE: Final = "image"
_CLASS_OUTPUTS: Final = {LOGITS, TEXT}  # rows of these are no embeddings of images


@dataclass(frozen=True)
class Meeting:
    """One loss's space.

    Attributes:
        loss: The loss with its projection, as it was when the best student was kept.
        teacher: Whose embeddings it compared.
        output: The output of the teacher whose rows belong there; None where its classes are texts alone.
        class_output: The output that its classes are of; None where it reads none.
        class_set: The class set that the run named; None for the only one.
    """

    loss: "TermLoss"
    teacher: "RunTeacher"
    output: str | None
    class_output: str | None
    class_set: str | None = None

    def ours(self, embeddings: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """The student's embeddings [N, d], in this space."""
        return self._projected(torch.from_numpy(embeddings), "student")

    def theirs(self, rows: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """The teacher's rows [N, D] of `output`, in this space."""
        values = torch.from_numpy(rows)
        values = values if self.loss.centre is None else values - self.loss.centre
        return self._projected(values if self.loss.scale is None else values * self.loss.scale, "target")

    def texts(self) -> "NDArray[np.float32] | None":
        """Class texts [C, D] in this space: those of the loss, or the store's where the loss meets images of CLIP.

        Raises:
            ConfigError: The store has several sets of them, and the run named none.
        """
        if self.class_output == TEXT:
            return self._projected(self.loss.classes, "target")
        view, text = self.teacher.view, self.teacher.view.spec.output(TEXT)
        if self.output != _IMAGE or text is None or self.loss.scale is not None:
            return None
        names = set_names(view, TEXT)
        if not names:
            return None
        # With several sets and none of them named by the run, the store asks for a name.
        found = torch.tensor(view.class_set(self.class_set if self.class_set in names else None, TEXT).mean)
        if self.loss.centre is not None:
            found -= found[found.isfinite().all(dim=1)].mean(dim=0)  # a class may have no text
        return self._projected(found, "target")

    @torch.no_grad()
    def _projected(self, rows: torch.Tensor, side: str) -> "NDArray[np.float32]":
        projection = self.loss.projection if self.loss.term.entry.projection == side else None
        found: NDArray[np.float32] = (rows if projection is None else projection(rows)).numpy()
        return found


@dataclass(frozen=True)
class Meetings:
    """All that a run's student shares with its teachers.

    Attributes:
        config: Of the run.
        teachers: All of them.
        all: The spaces, in the order of the losses; at most one for each teacher and output.
        num_classes: Width of the student's logits.
    """

    config: "Config"
    teachers: "tuple[RunTeacher, ...]"
    all: tuple[Meeting, ...]
    num_classes: int

    @classmethod
    def of(cls, run: "RunDir", config: "Config", look: "Look") -> "Meetings":
        """Those of a run's best student.

        Raises:
            TrainingError: It was trained without a teacher, or what its losses learned is not there.
            EmbedKDError: Its stores cannot be opened any more.
        """
        if not config.train.targets:
            raise TrainingError("expected a run that learned from a store of a teacher, this one learned from labels")
        data = open_data(config, build_terms(config.losses, config.loss_options))
        student, card = look.student, look.card
        objective = Objective(
            data.terms,
            targets=data.targets,
            student_dim=student.embedding_dim,
            num_classes=card.num_classes,
            tap_dims=student.tap_dims,
            class_names=card.class_names,
            seed=config.train.seed,
        )
        try:
            objective.load_state_dict(load_projections(run, card))
        except RuntimeError as error:
            raise TrainingError(
                f"{run.path} does not hold what its losses learned beside the best student (an earlier version kept "
                "only the weights); train again to compare it with its teacher"
            ) from error
        return cls(config, data.teachers, tuple(_meetings(config, data, objective)), card.num_classes)

    @property
    def compared(self) -> "tuple[RunTeacher, ...]":
        """The teachers that a student is compared with; what a head says is compared as its teacher's answers."""
        return tuple(teacher for teacher in self.teachers if teacher.base is None)

    def rows(self, split: "Split") -> "tuple[Samples, Mapping[str, tuple[RunTeacher, str]]]":
        """Samples of a split joined with rows of all teachers: embeddings, and logits where these are of the classes.

        Returns:
            The samples, and the name of each target that comes with them to its teacher and output.

        Raises:
            EmbedKDError: A store cannot be used any more, or does not cover the split.
        """
        # What a head said of the teacher's rows is as good an answer as its own: it lies beside it in the store.
        return rows_of_split(self._with_heads(), split, self._outputs)

    def _outputs(self, view: "TeacherView") -> list[str]:
        met = [one.output for one in self.all if one.teacher.view.teacher_id == view.teacher_id]
        logits = view.spec.output(LOGITS)
        fits = logits is not None and logits.dim == self.num_classes
        wanted = (
            [LOGITS] if is_derived(view.spec) and fits else [*met, default_output(view), *([LOGITS] if fits else [])]
        )
        return [name for name in dict.fromkeys(wanted) if name is not None and name in view.outputs]

    def _with_heads(self) -> "Config":
        """The config with a head of each teacher that has no logits of the classes of its own, as one more teacher."""
        entries = list(named_entries(self.teachers))
        for teacher in self.teachers:
            if LOGITS not in self._outputs(teacher.view) and not self._has_head(teacher.view):
                entries += [f"{teacher.place}#{name}" for name in self._heads(teacher.view)[:1]]
        return replace(self.config, train=replace(self.config.train, targets=tuple(entries)))

    def _has_head(self, view: "TeacherView") -> bool:
        """Whether the run itself learned from a head on this teacher's rows."""
        return any(self._is_head(teacher.view.spec, view.spec) for teacher in self.teachers)

    def _heads(self, view: "TeacherView") -> list[str]:
        """Teachers of the same store that are heads on this one's rows of whole images."""
        return [name for name, spec in view.store.teachers.items() if self._is_head(spec, view.spec)]

    def _is_head(self, spec: "TeacherSpec", base: "TeacherSpec") -> bool:
        """Whether a teacher is a head on another one's rows, with logits of as many classes as the student's."""
        logits = spec.output(LOGITS)
        fits = is_head_on(spec, base) and spec.view is None
        return fits and logits is not None and logits.dim == self.num_classes


def _meetings(config: "Config", data: "TrainingData", objective: Objective) -> list[Meeting]:
    found: dict[tuple[str, str | None, str | None], Meeting] = {}
    named = {teacher.name: teacher for teacher in data.teachers}
    for term in data.terms:
        targets = data.targets.get(term.name)
        if targets is None or term.entry.projection is None or term.compares.tap is not None:
            continue
        teacher = named[term.teacher] if term.teacher is not None else data.teachers[0]
        output = targets.output if term.entry.per_sample else targets.class_output
        met = Meeting(
            objective.losses[term.name],  # type: ignore[arg-type]
            teacher,
            None if output in _CLASS_OUTPUTS else output,
            targets.class_output,
            term.compares.class_set or config.train.class_set,
        )
        found.setdefault((teacher.name, met.output, met.class_output), met)
    return list(found.values())
