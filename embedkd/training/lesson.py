"""One forward pass and its losses: what a batch teaches a student."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from embedkd.training.device import Precision, autocast

if TYPE_CHECKING:
    from torch import Tensor

    from embedkd.join import Batch
    from embedkd.students import Student
    from embedkd.training.division import Share
    from embedkd.training.dropping import TeacherDropping
    from embedkd.training.live import LiveTeacher
    from embedkd.training.mixing import Mixing
    from embedkd.training.objective import Objective


class Lesson(nn.Module):
    """A student and its losses as one module, so that all parameters have their gradients averaged over ranks.

    Args:
        student: The model.
        objective: The weighted losses, with their projections.
        device: Where both lie.
        precision: Of the student's forward pass.
        mixing: How images of a batch are mixed; None mixes none.
        dropping: Which teachers a step does without; None always learns from all.
        live: Says the rows of each batch in place of the store; None takes the stored ones.
    """

    def __init__(
        self,
        student: "Student",
        objective: "Objective",
        *,
        device: torch.device,
        precision: Precision,
        mixing: "Mixing | None" = None,
        dropping: "TeacherDropping | None" = None,
        live: "LiveTeacher | None" = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.device = device
        self._precision = precision
        self._mixing = mixing
        self._dropping = dropping
        self._live = live
        # Asked to look for parameters without gradient, torch warns where it finds none; here it always finds one.
        self._unread = nn.Parameter(torch.zeros(0, device=device))

    @property
    def learned(self) -> "list[nn.Parameter]":
        """What the optimiser changes."""
        parts = (self.student, self.objective)
        return [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]

    def prepared(self, batch: "Batch") -> "Batch":
        """What counts of a batch, checked, on the device, with its targets.

        Raises:
            TrainingError: A label is missing or is no class; the sample is named.
        """
        batch = without_padding(batch)
        self.objective.check_labels(batch.keys, batch.labels)
        batch = batch.to(self.device)
        if self._live is None:
            return batch
        return replace(batch, targets={**batch.targets, **self._live.rows(batch)}, beside={})

    def forward(self, batch: "Batch", share: "Share", step: int, part: int) -> "tuple[Tensor, dict[str, Tensor]]":
        """The total and each loss by itself, of this rank's samples; scalars, float32.

        Args:
            batch: Prepared.
            share: Which of all ranks' samples these are.
            step: Counted from 1; it says which teachers are dropped, and with ``part`` how images are mixed.
            part: Of the step, from 0.
        """
        mixture = None if self._mixing is None else self._mixing.draw(step, part)
        with autocast(self.device, self._precision):
            answer = self.student(batch.pixels if mixture is None else mixture.pixels(batch.pixels))
        factors = {} if self._dropping is None else self._dropping.factors(step)
        own: tuple[Tensor, dict[str, Tensor]] = self.objective(answer, batch.labels, batch.targets, share, factors)
        if mixture is None:
            return own
        targets = {name: mixture.partners(rows) for name, rows in batch.targets.items()}
        return mixture.mean(own, self.objective(answer, mixture.partners(batch.labels), targets, share, factors))


def without_padding(batch: "Batch") -> "Batch":
    """The samples of a batch that count, or one of the others where none does; it must lie on the CPU."""
    if bool(batch.valid.all()):
        return batch
    kept = batch.valid.nonzero().flatten() if bool(batch.valid.any()) else torch.zeros(1, dtype=torch.int64)
    return replace(
        batch,
        keys=tuple(batch.keys[at] for at in kept.tolist()),
        pixels=batch.pixels[kept],
        labels=batch.labels[kept],
        targets={output: rows[kept] for output, rows in batch.targets.items()},
        valid=batch.valid[kept],
        beside={name: pixels[kept] for name, pixels in batch.beside.items()},
    )
