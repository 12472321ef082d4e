"""Showing a run's best student samples."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.evaluation.embed import Collected, collect
from embedkd.join import JoinedShards, Samples, make_loader
from embedkd.rundir import RunDir, usable_cpus
from embedkd.training import StudentCard, load_student
from embedkd.training.device import resolve_device, resolve_workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

    from embedkd.config import Config
    from embedkd.join import Batch
    from embedkd.progress import Progress
    from embedkd.students import Student


@dataclass(frozen=True)
class Look:
    """A student with all that it takes to show it samples.

    Attributes:
        student: The best one of a run.
        card: What it expects.
        device: What it runs on.
        workers: Processes that read and decode.
        batch_size: Samples a forward pass.
        watch: Who is told how far it is.
    """

    student: "Student"
    card: StudentCard
    device: "torch.device"
    workers: int
    batch_size: int
    watch: "Progress"

    @classmethod
    def of(cls, run: RunDir, config: "Config", device: str, workers: int | None, watch: "Progress") -> "Look":
        """At the best student of a run.

        Raises:
            TrainingError: The run has none yet, or its files do not fit together.
        """
        student, card = load_student(run)
        place = resolve_device(device)
        # The trainer's own batch size: kernels round differently at others, and top-1 must equal the run's result.
        size = config.train.global_batch_size
        return cls(student, card, place, resolve_workers(workers, place, usable_cpus()), size, watch)

    def at(self, samples: Samples, split: str) -> Collected:
        """The student's answers to the labelled ones, and the targets that come with them."""
        dataset = JoinedShards(samples, self.card.view(), global_batch_size=self.batch_size, shuffle=False)
        loader = make_loader(dataset, workers=self.workers, pin_memory=self.device.type == "cuda")
        self.watch.begin(f"evaluate {self.card.name} ({split})", samples.rows, "images")
        try:
            return collect(self.student, self._watched(loader), self.device).labelled()
        finally:
            self.watch.end()

    def _watched(self, batches: "Iterable[Batch]") -> "Iterator[Batch]":
        for batch in batches:
            yield batch
            self.watch.advance(int(batch.valid.sum()))
