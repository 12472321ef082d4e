"""Teacher dropping: a step does without some of the teachers, so that no single one is leaned on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedkd.training.terms import Term


@dataclass(frozen=True)
class TeacherDropping:
    """Which teachers each step learns from: a function of the seed and the step, the same on all ranks.

    Each teacher is dropped with one probability, and where that would drop all, one that is drawn evenly stays. Weights
    of those that stay are divided by the probability of staying, so the expected gradient is that of all teachers.
    (UNIC, Sariyildiz et al. 2024, keeps the teacher with the largest loss instead, which weighs teachers by their
    losses; here weights are left to the config.)

    Attributes:
        teachers: Names of the losses that compare with each teacher.
        probability: Of dropping a teacher, at least 0 and below 1.
        seed: Of the run.
    """

    teachers: "Mapping[str, tuple[str, ...]]"
    probability: float
    seed: int

    @classmethod
    def of(
        cls, terms: "Sequence[Term]", probability: float, seed: int, bases: "Mapping[str, str] | None" = None
    ) -> "TeacherDropping | None":
        """For the losses of a run; None where nothing is dropped: no probability, or fewer than two teachers.

        Args:
            terms: The losses.
            probability: Of dropping a teacher.
            seed: Of the run.
            bases: Name of each head to that of its teacher, with which it is dropped.
        """
        teachers: dict[str, tuple[str, ...]] = {}
        for term in terms:
            if term.teacher is not None:
                name = (bases or {}).get(term.teacher, term.teacher)
                teachers[name] = (*teachers.get(name, ()), term.name)
        return cls(teachers, probability, seed) if probability and len(teachers) > 1 else None

    @property
    def stays(self) -> float:
        """Probability that one given teacher stays in a step."""
        return 1 - self.probability + self.probability ** len(self.teachers) / len(self.teachers)

    def factors(self, step: int) -> dict[str, float]:
        """Name of each loss with a teacher to what multiplies its weight: 0 where the teacher is dropped.

        Args:
            step: From 1.
        """
        draw = generator(self.seed, "teachers", step)
        kept = draw.random(len(self.teachers)) >= self.probability
        if not kept.any():
            kept[draw.integers(len(self.teachers))] = True
        return {
            loss: float(stays) / self.stays
            for losses, stays in zip(self.teachers.values(), kept, strict=True)
            for loss in losses
        }
