"""Does distillation from stored targets help? Cross-validated on the embedded data, every run printed.

    python -m benchmarks.quality [--folds 5] [--seeds 2] [--json FILE] [--set KEY=VALUE ...]

Each image of the embedded data set is in the test part of exactly one of the folds; a tenth of the rest chooses the
epoch. For every fold the teacher runs over the fold's own shards, and class means come from its training part alone.
All recipes share everything but their losses (pipelines/clipart.toml: student, images, augmentation, optimiser).
`random-means` is a control: clip-embed-kd with class means drawn from a normal distribution, which know nothing.
Intervals are paired bootstraps over images: the differences of right answers, averaged over seeds, are resampled.
"""

import argparse
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import finish
from embedkd.config import Config, load_config
from embedkd.evaluation.embed import collect
from embedkd.join import JoinedShards, shard_samples
from embedkd.precompute import precompute
from embedkd.records import Split
from embedkd.rundir import RunDir
from embedkd.seeding import generator
from embedkd.sources.fields import image_suffix, label
from embedkd.sources.items import PackItem
from embedkd.sources.pack import write_shards
from embedkd.sources.reader import ShardStream
from embedkd.sources.roots import ShardSource, open_root
from embedkd.sources.shards import list_data
from embedkd.store import default_name, open_store, write_class_set
from embedkd.training import FixedView, load_student, train

RECIPES = {
    "supervised": {"cross_entropy": 1.0},
    "clip-embed-kd": {"cross_entropy": 0.5, "class_contrastive": 0.5},
    "random-means": {"cross_entropy": 0.5, "class_contrastive": 0.5},
    "sample-contrastive": {"cross_entropy": 0.5, "sample_contrastive": 0.5},
}
BASELINE = "supervised"
RANDOM = "random"
RESAMPLES = 10_000
PIPELINE = Path(__file__).parent.parent / "pipelines" / "clipart.toml"


def embedded_items() -> tuple[list[PackItem], tuple[str, ...]]:
    """Every sample of the embedded data set, without its split, and the class names."""
    listing = list_data("data:clipart")
    root = open_root(listing.root)
    items = []
    for name in listing.names:
        with ShardStream(ShardSource(root, name)) as stream:
            for sample in stream:
                suffix = image_suffix(sample.fields, sample.key)
                assert suffix is not None
                read = partial(bytes, sample.fields[suffix])
                items.append(PackItem(sample.key, suffix, label(sample.fields, sample.key), read))
    assert listing.classes is not None
    return items, listing.classes


def assign_folds(items: list[PackItem], folds: int) -> NDArray[np.int64]:
    """Fold of each item: every class is spread evenly over the folds."""
    fold_of = np.empty(len(items), dtype=np.int64)
    by_class = defaultdict(list)
    for at, item in enumerate(items):
        by_class[item.label].append(at)
    for number, members in by_class.items():
        fold_of[generator(0, "folds", number).permutation(members)] = np.arange(len(members)) % folds
    return fold_of


def make_fold(
    items: list[PackItem], classes: tuple[str, ...], fold_of: NDArray[np.int64], fold: int, out: Path
) -> None:
    """Shards and a store for one fold."""
    rest = generator(0, "validation", fold).permutation(np.flatnonzero(fold_of != fold))
    held_out = set(rest[: len(rest) // 10].tolist())

    def split_of(at: int) -> Split:
        return "test" if fold_of[at] == fold else "val" if at in held_out else "train"

    with_splits = [replace(item, split=split_of(at)) for at, item in enumerate(items)]
    write_shards(with_splits, out / "shards", classes=classes, rows_per_shard=256)
    values = {
        "data.shards": str(out / "shards"),
        "precompute.out": str(out / "store.zarr"),
        "precompute.outputs": ["pooled"],
    }
    precompute(load_config(PIPELINE, values=values))
    view = open_store(out / "store.zarr").teacher()
    true = view.class_set(None, "pooled")
    noise = generator(fold, "random means").normal(size=true.mean.shape).astype(np.float32)
    write_class_set(view, "pooled", replace(true, name=RANDOM, mean=noise))


def run_one(job: tuple[Config, Path]) -> dict[str, bool]:
    """Train one student on one core; right or wrong for each test image."""
    config, shards = job
    torch.set_num_threads(1)
    train(config)
    student, card = load_student(RunDir(Path(config.train.out)))
    listing = list_data(str(shards))
    samples = shard_samples([s for s in listing.indexed if s.split == "test"], listing.root)
    view = FixedView(image_px=card.image_px, mean=card.mean, std=card.std)
    found = collect(student, JoinedShards(samples, view, global_batch_size=64, shuffle=False))
    right = found.logits.argmax(axis=1) == found.labels
    return dict(zip(found.keys, right.tolist(), strict=True))


def interval(differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean and 95 % percentile bootstrap interval, in points."""
    rng = generator(0, "bootstrap")
    means = [differences[rng.integers(0, len(differences), len(differences))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * float(differences.mean()), 100 * float(low), 100 * float(high)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    items, classes = embedded_items()
    fold_of = assign_folds(items, options.folds)
    right: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in RECIPES}
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        jobs: dict[tuple[int, int, str], tuple[Config, Path]] = {}
        for fold in range(options.folds):
            home = folder / str(fold)
            make_fold(items, classes, fold_of, fold, home)
            base = load_config(
                PIPELINE,
                sets=[
                    *options.sets,
                    f"train.targets={home / 'store.zarr'}",
                    "train.workers=0",
                    "train.allow_view_mismatch=true",
                ],
            )
            for seed in range(options.seeds):
                for name, losses in RECIPES.items():
                    means = (
                        RANDOM if name == "random-means" else default_name(base.average.per_class, base.average.seed)
                    )
                    settings = replace(base.train, seed=seed, out=str(home / f"{name}-{seed}"), class_set=means)
                    jobs[fold, seed, name] = (replace(base, losses=losses, train=settings), home / "shards")
        with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
            for (fold, seed, name), found in zip(jobs, pool.map(run_one, jobs.values()), strict=True):
                accuracy = sum(found.values()) / len(found)
                runs.append({"fold": fold, "seed": seed, "recipe": name, "top1": accuracy})
                print(f"fold {fold}  seed {seed}  {name:<19} {accuracy:.1%}", flush=True)
                for key, value in found.items():
                    right[name][key].append(value)
    shares = {name: np.array([np.mean(found[item.name]) for item in items]) for name, found in right.items()}
    print(f"\n{len(items)} images, {options.folds} folds x {options.seeds} seeds")
    differences = {}
    for name, share in shares.items():
        line = f"  {name:<19} {share.mean():.1%}"
        if name != BASELINE:
            differences[name] = interval(share - shares[BASELINE])
            line += "  {:+.1f} points against {} [{:+.1f}, {:+.1f}]".format(
                differences[name][0], BASELINE, *differences[name][1:]
            )
        print(line)
    facts = {"runs": runs, "top1": {name: share.mean() for name, share in shares.items()}, "differences": differences}
    finish("quality", facts, options.json)


if __name__ == "__main__":
    main()
