"""What ``embedkd evaluate`` does: the best student of a run, on samples it has not learnt from."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkd.errors import ConfigError
from embedkd.evaluation.document import Evaluation, write_evaluation
from embedkd.evaluation.embed import Collected, collect
from embedkd.evaluation.samples import choose, own_splits, shard_splits
from embedkd.evaluation.top1 import accuracy
from embedkd.join import JoinedShards, Samples, make_loader
from embedkd.progress import Progress, Silent
from embedkd.rundir import RunDir, usable_cpus
from embedkd.training import FixedView, StudentCard, load_student
from embedkd.training.device import device_name, resolve_device, resolve_workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

    from embedkd.config import Config
    from embedkd.evaluation.estimate import Estimate
    from embedkd.join import Batch
    from embedkd.records import Split
    from embedkd.students import Student


def evaluate_run(
    run: Path,
    *,
    data: str | None = None,
    split: "Split" = "test",
    knn: bool = True,
    device: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the best student of a run, and write evaluation.json beside it; a run that goes on may be looked at too.

    Args:
        run: The run folder.
        data: Shards of the student's classes; None takes what the run was trained on.
        split: Which of their samples.
        knn: Also classify by the nearest embeddings of the training split; of the run's own where ``data`` has none.
        device: Where the student runs; "auto" takes CUDA where there is one.
        workers: Processes that read and decode; None decides by the hardware.
        progress: Who watches.

    Returns:
        What evaluation.json holds, see `Evaluation`: ``metrics`` has name to value, low and high.

    Raises:
        ConfigError: k-NN on the training split, where each sample is its own nearest neighbour.
        TrainingError: There is no student, no sample to evaluate it on, or its answers are not finite.
        JoinError: The shards are of other classes.
        SourceError: A shard or an image cannot be used.
        StorageError: The file cannot be written.
    """
    if knn and split == "train":
        raise ConfigError("k-NN looks for neighbours in the training split; evaluate another split with it")
    config = RunDir(run).read_config()
    look = _Look.of(run, config, resolve_device(device), workers, progress or Silent())
    where = data or config.data.shards or str(config.train.targets)
    splits = own_splits(config) if data is None else shard_splits(data, look.card.class_names)
    samples = choose(splits, split, where)
    bank = (splits.get("train") or choose(own_splits(config), "train", where)) if knn else None
    found = look.at(samples, split)
    known = None if bank is None else look.at(bank, "train")
    evaluation = Evaluation(
        weights_blake2b=look.card.weights_blake2b,
        data=where,
        split=split,
        rows=len(found),
        bank_rows=None if known is None else len(known),
        left_out=dict(samples.left_out),
        device=device_name(look.device),
        metrics=dict(_measure(found, known)),
    )
    write_evaluation(RunDir(run), evaluation)
    return evaluation.to_json()


def _measure(found: Collected, bank: Collected | None) -> "Iterator[tuple[str, Estimate]]":
    yield from accuracy(found.logits, found.labels)
    if bank is not None:
        from embedkd.evaluation.knn import knn_accuracy  # scikit-learn takes as long to import as the rest to run

        yield from knn_accuracy(bank.embeddings, bank.labels, found.embeddings, found.labels)


@dataclass(frozen=True)
class _Look:
    """A student with all that it takes to show it samples."""

    student: "Student"
    card: StudentCard
    device: "torch.device"
    workers: int
    batch_size: int
    watch: Progress

    @classmethod
    def of(cls, run: Path, config: "Config", device: "torch.device", workers: int | None, watch: Progress) -> "_Look":
        """At the best student of a run."""
        student, card = load_student(RunDir(run))
        # The trainer's own batch size: kernels round differently at others, and top-1 must equal the run's result.
        return cls(
            student,
            card,
            device,
            resolve_workers(workers, device, usable_cpus()),
            config.train.global_batch_size,
            watch,
        )

    def at(self, samples: Samples, split: str) -> Collected:
        """The student's answers to the labelled ones."""
        view = FixedView(image_px=self.card.image_px, mean=self.card.mean, std=self.card.std)
        dataset = JoinedShards(samples, view, global_batch_size=self.batch_size, shuffle=False)
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
