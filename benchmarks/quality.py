"""Does distillation from stored targets help? Cross-validated on the embedded data, every run printed.

    python -m benchmarks.quality [--work DIR] [--shots 10] [--folds 5] [--seeds 2] [--processes 2] [--only NAME ...]

Each image of the embedded data set is in the test part of exactly one of the folds. Of the rest, all images can be
learned from, but only ``--shots`` a class have a label (0: all of them). Losses that need labels see the labelled ones
more often: every run sees the same number of images, with one student, one augmentation and one optimiser, those of
pipelines/few-labels.toml. No image chooses an epoch: the last student is tested. The re-enacted reference alone has
its own rate and precision, and reports its best epoch on the test part, as its published code does. For every fold the
teacher runs over the fold's own shards; head, class means and standardisation know its training part alone. Intervals
are paired bootstraps over images: the differences of right answers, averaged over seeds, are resampled.

    python -m benchmarks.quality --only sample_contrastive --only online --seeds 1 --set train.epochs=7

compares stored rows with a teacher in the loop; that is not among what runs by default, since it takes hours.

Finished runs are kept in ``--work`` and not run again, so a benchmark that was stopped goes on.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import finish
from benchmarks.quality_folds import RANDOM_MEANS, TEACHER, Fold, make_fold
from benchmarks.reference import train_reference
from embedkd.allocator import tune_allocator
from embedkd.config import Config, load_config
from embedkd.evaluation.embed import collect
from embedkd.join import JoinedShards, shard_samples
from embedkd.online import train_online
from embedkd.records import blake2b_hex, canonical_json
from embedkd.rundir import RunDir
from embedkd.seeding import generator
from embedkd.sources.shards import list_data
from embedkd.storage import write_atomic
from embedkd.training import FixedView, load_student, train

PIPELINE = Path(__file__).parent.parent / "pipelines" / "few-labels.toml"
HEAD = f"{TEACHER}+linear"
BASELINES = ("supervised", "reference", "online")
RESAMPLES = 10_000


@dataclass(frozen=True)
class Contender:
    """What differs between the students.

    Attributes:
        losses: Name to weight; none for the re-enacted reference, and for what the pipeline file says.
        options: Of the losses.
        teachers: Of the fold's store, whose rows are read.
        labels: Whether only images with a label can be learned from.
        sets: Further settings.
    """

    losses: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, bool | float | str]] = field(default_factory=dict)
    teachers: tuple[str, ...] = (TEACHER,)
    labels: bool = True
    sets: tuple[str, ...] = ()


MIXED = ("augment.mixup=0.2", "augment.cutmix=1.0")
CONTENDERS = {
    "supervised": Contender({"cross_entropy": 1.0}),
    "supervised, mixed": Contender({"cross_entropy": 1.0}, sets=MIXED),
    "reference": Contender(),
    "class_contrastive": Contender({"cross_entropy": 0.5, "class_contrastive": 0.5}),
    "random means": Contender(
        {"cross_entropy": 0.5, "class_contrastive": 0.5}, sets=(f"train.class_set={RANDOM_MEANS}",)
    ),
    "sample_contrastive": Contender({"cross_entropy": 0.5, "sample_contrastive": 0.5}),
    # Its twin with the teacher in the loop: targets of the very crop. A run costs a pass of the teacher for each image.
    "online": Contender({"cross_entropy": 0.5, "sample_contrastive": 0.5}, sets=("train.online_teacher=true",)),
    "kl": Contender({"kl": 1.0}, teachers=(HEAD,), labels=False),
    "labels + mse": Contender(
        {"cross_entropy": 1.0, "mse": 4.0}, {"mse": {"output": "pooled", "standardise": True}}, labels=False
    ),
    "labels + kl + mse": Contender(teachers=(TEACHER, HEAD), labels=False),
}
USUAL = tuple(name for name in CONTENDERS if name not in {"random means", "online"})


@dataclass(frozen=True)
class Run:
    """One student: who, where, from which seed, for how many epochs of all images."""

    name: str
    fold: Fold
    seed: int
    sets: tuple[str, ...]

    @property
    def answers(self) -> Path:
        """Where its right and wrong answers are kept; another place for other settings."""
        config = self.config()
        config = replace(config, train=replace(config.train, targets=()))  # the folder may be moved
        facts = [self.name, CONTENDERS[self.name].teachers, self.fold.facts, config.training_facts()]
        return self.fold.home / "answers" / f"{blake2b_hex(canonical_json(facts))[:16]}.json"

    def config(self) -> Config:
        """Its settings: those of the pipeline file, with the losses changed and as many images seen."""
        who, facts = CONTENDERS[self.name], self.fold.facts
        targets = json.dumps([f"{self.fold.store}#{teacher}" for teacher in who.teachers])
        config = load_config(
            PIPELINE,
            sets=[
                f"train.targets={targets}",
                f"train.seed={self.seed}",
                "train.workers=0",
                "train.device=cpu",
                "train.val_fraction=0",
                "train.allow_partial=true",
                f"train.keep_unlabelled={str(not who.labels).lower()}",
                "train.log_every_steps=1000",
                *who.sets,
                *self.sets,
            ],
        )
        seen = facts["train"] / facts["labelled"] if who.labels else 1.0
        epochs = max(1, round(config.train.epochs * seen))
        settings = replace(config.train, epochs=epochs, validate_every_epochs=epochs)
        if who.losses or self.name == "reference":
            losses = dict(who.losses) or {"cross_entropy": 1.0}
            config = replace(config, losses=losses, loss_options={k: dict(v) for k, v in who.options.items()})
        return replace(config, train=settings)


def run_one(run: Run) -> tuple[Run, dict[str, bool]]:
    """Train one student on one core; right or wrong for each test image."""
    if not run.answers.exists():
        torch.set_num_threads(1)
        tune_allocator()
        found = _reference(run) if run.name == "reference" else _trained(run)
        run.answers.parent.mkdir(exist_ok=True)
        write_atomic(run.answers, json.dumps(found).encode())
    answers: dict[str, bool] = json.loads(run.answers.read_text())
    return run, answers


def _reference(run: Run) -> dict[str, bool]:
    """Of the re-enacted code: of the epoch that was best on the test part, as it reports itself."""
    return train_reference(run.config(), run.fold.reference).right_best


def _trained(run: Run) -> dict[str, bool]:
    config = run.config()
    with tempfile.TemporaryDirectory() as out:
        begin = train_online if config.train.online_teacher else train
        begin(replace(config, train=replace(config.train, out=f"{out}/run")))
        student, card = load_student(RunDir(Path(out) / "run"))
    listing = list_data(str(run.fold.home / "shards"))
    samples = shard_samples([s for s in listing.indexed if s.split == "test"], listing.root)
    view = FixedView(image_px=card.image_px, mean=card.mean, std=card.std)
    found = collect(student, JoinedShards(samples, view, global_batch_size=64, shuffle=False))
    right = found.logits.argmax(axis=1) == found.labels
    return dict(zip(found.keys, right.tolist(), strict=True))


def interval(differences: NDArray[np.float64], resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Mean and 95 % percentile bootstrap interval, in points."""
    rng = generator(0, "bootstrap")
    means = [differences[rng.integers(0, len(differences), len(differences))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * float(differences.mean()), 100 * float(low), 100 * float(high)


def compare(right: Mapping[str, Mapping[str, list[bool]]]) -> dict[str, dict[str, Any]]:
    """Top-1 of each contender, and how far it is from each baseline on the images that both were asked about.

    Args:
        right: Contender to key of a test image to its answers, one a seed.
    """
    shares = {name: {key: float(np.mean(said)) for key, said in found.items()} for name, found in right.items()}
    facts: dict[str, dict[str, Any]] = {}
    for name, share in shares.items():
        facts[name] = {"top1": 100 * float(np.mean(list(share.values()))), "images": len(share)}
        for baseline in BASELINES:
            if baseline in shares and baseline != name:
                keys = sorted(share.keys() & shares[baseline].keys())
                pairs = np.array([share[key] - shares[baseline][key] for key in keys])
                facts[name][f"against {baseline}"] = interval(pairs) if len(pairs) else None
    return facts


def show(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the comparison as a table of Markdown."""
    asked = [name for name in BASELINES if name in facts]
    print("\n| | top-1 |" + "".join(f" against {name} |" for name in asked))
    print("|---|---:|" + "---|" * len(asked))
    for name, found in facts.items():
        gaps = [found.get(f"against {baseline}") for baseline in asked]
        said = ["" if gap is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*gap) for gap in gaps]
        print(f"| {name} | {found['top1']:.1f} |" + "".join(f" {one} |" for one in said))
    print(flush=True)


def gather(answers: Iterable[tuple[Run, dict[str, bool]]], names: list[str]) -> tuple[list[dict[str, Any]], Any]:
    """Print each run as it ends, and the comparison of all so far after each dozen."""
    runs: list[dict[str, Any]] = []
    right: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in names}
    for run, found in answers:
        top1 = 100 * sum(found.values()) / len(found)
        runs.append({"fold": run.fold.number, "seed": run.seed, "name": run.name, "top1": top1})
        print(f"fold {run.fold.number}  seed {run.seed}  {run.name:<19} {top1:.1f}", flush=True)
        for key, value in found.items():
            right[run.name][key].append(value)
        if len(runs) % 12 == 0:
            show(compare({name: said for name, said in right.items() if said}))
    return runs, compare({name: said for name, said in right.items() if said})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="finished parts are kept here; a temporary folder by default")
    parser.add_argument("--shots", type=int, default=10, help="labelled images a class; 0 for all")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--fold", action="append", type=int, help="only this one of them; repeat for several")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", action="append", choices=list(CONTENDERS), help="repeat for several")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = options.only or list(USUAL)
    with tempfile.TemporaryDirectory() as temporary:
        home = (options.work or Path(temporary)).resolve() / f"shots-{options.shots}-of-{options.folds}"
        folds = [Fold(number, home / f"fold-{number}") for number in options.fold or range(options.folds)]
        for fold in folds:
            fold.home.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
            for fold in pool.map(make_fold, [(fold, options.folds, options.shots) for fold in folds]):
                print(f"fold {fold.number}: {fold.facts}", flush=True)
            runs = [
                Run(name, fold, seed, tuple(options.sets))
                for seed in range(options.seeds)
                for fold in folds
                for name in names
            ]
            tasks = [pool.submit(run_one, run) for run in runs]
            try:
                printed, facts = gather((task.result() for task in as_completed(tasks)), names)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # or it would first end what is still queued
                raise
    print(f"\n{options.shots or 'all'} labels a class, {len(folds)} folds x {options.seeds} seeds")
    show(facts)
    finish("quality", {"shots": options.shots, "runs": printed, "contenders": facts}, options.json)


if __name__ == "__main__":
    main()
