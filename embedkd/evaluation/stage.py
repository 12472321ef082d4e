"""What ``embedkd evaluate`` does: the best student of a run, on samples it has not learnt from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import ConfigError, EmbedKDError
from embedkd.evaluation.details import Details
from embedkd.evaluation.document import Evaluation, write_evaluation
from embedkd.evaluation.looking import Look
from embedkd.evaluation.measures import Measures
from embedkd.evaluation.samples import Splits, choose, grown_since, own_data, own_splits, shard_splits, splits_of
from embedkd.evaluation.top1 import accuracy
from embedkd.join.held_out import held_out
from embedkd.progress import Progress, Silent
from embedkd.records import key_hash
from embedkd.rundir import RunDir
from embedkd.training.device import device_name
from embedkd.training.stores import stores_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from embedkd.config import Config
    from embedkd.evaluation.comparing import Sources
    from embedkd.evaluation.embed import Collected
    from embedkd.evaluation.estimate import Estimate
    from embedkd.evaluation.meeting import Meetings
    from embedkd.join import Samples
    from embedkd.records import Split

    Measured = Iterable[tuple[str, Estimate]]
    Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]

_HELD_OUT_SHARE = 0.1  # of the training samples, where no validation split chooses the probe's penalty
_DEFAULT = Measures()


def evaluate_run(
    run: Path,
    *,
    data: str | None = None,
    split: "Split" = "test",
    measures: Measures = _DEFAULT,
    device: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the best student of a run, and write evaluation.json beside it; a run that goes on may be looked at too.

    Args:
        run: The run folder.
        data: Shards of the student's classes; None takes what the run was trained on.
        split: Which of their samples.
        measures: What is measured. Neighbours and probes learn from the training split, temperature and penalty from
            the validation split; from those of the run where ``data`` has none.
        device: Where the student runs; "auto" takes CUDA where there is one.
        workers: Processes that read and decode; None decides by the hardware.
        progress: Who watches.

    Returns:
        What evaluation.json holds, see `Evaluation`: ``metrics`` has name to value, low and high.

    Raises:
        ConfigError: k-NN or a linear probe on the training split, or agreement on other shards than the run's.
        TrainingError: There is no student, no sample to evaluate it on, its answers are not finite, or it has not what
            was asked for.
        JoinError: The shards are of other classes.
        SourceError: A shard or an image cannot be used.
        StorageError: The file cannot be written.
    """
    measures.check(split, data)
    folder = RunDir(run)
    config = folder.read_config()
    look = Look.of(folder, config, device, workers, progress or Silent())
    where = data or config.data.shards or stores_of(config.train.targets)
    if data is None:
        own = own_data(config)
        splits, notes = splits_of(own), grown_since(folder.read_result(), own)
    else:
        splits, notes = shard_splits(data, look.card.class_names), []
    task = _Task(folder, config, look, measures, split, where, splits, notes=notes)
    evaluation = task.evaluate(choose(splits, split, where))
    write_evaluation(folder, evaluation)
    return evaluation.to_json()


@dataclass
class _Task:
    """One evaluation, and what it has found so far."""

    run: RunDir
    config: "Config"
    look: Look
    measures: Measures
    split: "Split"
    where: str
    splits: Splits
    metrics: "dict[str, Estimate]" = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def evaluate(self, samples: "Samples") -> Evaluation:
        """Look at what is needed, each sample once, and measure."""
        wanted = self.measures
        meetings: Meetings | None = None
        sources: Sources = {}
        if wanted.agreement or wanted.zero_shot:
            meetings = self._try("agreement and zero-shot", self._meetings)
        if meetings is not None and wanted.agreement:
            joined = self._try("agreement", lambda: self._rows(meetings))
            samples, sources = (samples, {}) if joined is None else joined
        found = self.look.at(samples, self.split)
        bank = self._other("train") if wanted.knn or wanted.linear else None
        val = self._other("val") if wanted.calibration or wanted.linear else None
        self._add(accuracy(found.logits, found.labels))
        self._add_representation(found, bank, val)
        if meetings is not None:
            self._add_comparison(found, meetings, sources)
        details = self._details(found, val)
        return Evaluation(
            weights_blake2b=self.look.card.weights_blake2b,
            data=self.where,
            split=self.split,
            rows=len(found),
            bank_rows=None if bank is None else len(bank),
            left_out=dict(samples.left_out),
            device=device_name(self.look.device),
            metrics=self.metrics,
            notes=tuple(self.notes),
            details=details,
        )

    def _add(self, measured: "Measured") -> None:
        self.metrics.update(measured)

    def _try(self, name: str, make: "Callable[[], Any]") -> Any:
        """What it gives; a note in its place where everything is asked for, and this cannot be had."""
        try:
            return make()
        except EmbedKDError as error:
            if not self.measures.lenient:
                raise
            self.notes.append(f"not measured, {name}: {' '.join(str(error).split())}")
            return None

    def _other(self, split: "Split") -> "Collected | None":
        """Answers to another split, of the run's own where these shards have none; None where there is none."""
        if split == self.split:
            return None
        samples = self.splits.get(split)
        if samples is None:
            try:
                samples = choose(own_splits(self.config), split, self.where)
            except EmbedKDError:
                if split == "train":
                    raise
                return None
        return self.look.at(samples, split)

    def _meetings(self) -> "Meetings":
        from embedkd.evaluation.meeting import Meetings

        return Meetings.of(self.run, self.config, self.look)

    def _rows(self, meetings: "Meetings | None") -> "tuple[Samples, Sources]":
        assert meetings is not None
        samples, sources = meetings.rows(self.split)
        return choose({self.split: samples} if samples.rows else {}, self.split, self.where), sources

    def _add_representation(self, found: "Collected", bank: "Collected | None", val: "Collected | None") -> None:
        if bank is None:
            return
        if self.measures.knn:
            from embedkd.evaluation.knn import knn_accuracy  # scikit-learn takes as long to import as the rest to run

            self._add(knn_accuracy(bank.embeddings, bank.labels, found.embeddings, found.labels))
        if self.measures.linear:
            self._try("linear", lambda: self._add_linear(found, bank, val))

    def _add_linear(self, found: "Collected", bank: "Collected", val: "Collected | None") -> None:
        from embedkd.evaluation.linear import linear_probe

        fitted, choosing = _to_fit_and_choose(bank, val)
        test = (found.embeddings, found.labels)
        self._add(linear_probe(fitted, choosing, test, classes=found.logits.shape[1], device=self.look.device))

    def _add_comparison(self, found: "Collected", meetings: "Meetings", sources: "Sources") -> None:
        from embedkd.evaluation.comparing import agreement_with_teachers, zero_shot

        if sources:
            self._add(agreement_with_teachers(found, meetings, sources))
        if self.measures.zero_shot:
            self._try("zero-shot", lambda: self._add(zero_shot(found, meetings)))

    def _details(self, found: "Collected", val: "Collected | None") -> Details:
        """The tables; what is measured with them is added to the metrics."""
        from embedkd.evaluation import calibration, classes

        tables: dict[str, Any] = {}
        if self.measures.per_class:
            self._add(classes.class_means(found.logits, found.labels))
            if found.logits.shape[1] <= classes.MOST_CLASSES:
                tables["classes"], tables["confusions"] = classes.count_classes(found.logits, found.labels)
        if self.measures.calibration:
            temperature = None if val is None else calibration.fit_temperature(val.logits, val.labels)
            if temperature is None:
                self.notes.append(
                    "no temperature was fitted: that takes a validation split, and another one to measure"
                )
            else:
                scaled = calibration.Answers.of(found.logits, found.labels, temperature)
                tables["scaled_reliability"] = calibration.reliability(scaled)
            self._add(calibration.calibration(found.logits, found.labels, temperature=temperature))
            plain = calibration.Answers.of(found.logits, found.labels)
            tables["reliability"] = calibration.reliability(plain)
        return Details(**tables)


def _to_fit_and_choose(bank: "Collected", val: "Collected | None") -> "tuple[Labelled, Labelled]":
    """What a probe is fitted to, and what chooses its penalty: the validation split, else a tenth of the training."""
    if val is not None:
        return (bank.embeddings, bank.labels), (val.embeddings, val.labels)
    keys = np.array([key_hash(key) for key in bank.keys], np.uint64)
    chosen = held_out(keys, bank.labels, share=_HELD_OUT_SHARE, seed=0)
    if not chosen.any():
        raise ConfigError("a linear probe needs 2 training samples of a class to choose its penalty; leave it out")
    return (bank.embeddings[~chosen], bank.labels[~chosen]), (bank.embeddings[chosen], bank.labels[chosen])
