"""Folds of the quality benchmark: shards in which some training images have a label, and what is stored of them."""

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.reference import reference_means
from embedkd.config import load_config
from embedkd.heads import make_head
from embedkd.precompute import precompute
from embedkd.seeding import generator
from embedkd.sources.fields import NO_LABEL, image_suffix, label
from embedkd.sources.items import PackItem
from embedkd.sources.pack import write_shards
from embedkd.sources.reader import ShardStream
from embedkd.sources.roots import ShardSource, open_root
from embedkd.sources.shards import list_data
from embedkd.store import default_name, open_store, write_class_set

TEACHER = "packaged:efficientnet-lite0"
RANDOM_MEANS = "random"
_BATCH = 32  # of pipelines/few-labels.toml
_L2 = 0.1
_FOLDS_OF_HEAD = 10


@dataclass(frozen=True)
class Fold:
    """One fold: its number and where it lies.

    Attributes:
        number: From 0.
        home: Holds ``shards``, ``store.zarr``, ``reference.pt`` (class means of the re-enacted code), ``facts.json``.
    """

    number: int
    home: Path

    @property
    def store(self) -> str:
        """The store of the fold's shards."""
        return str(self.home / "store.zarr")

    @property
    def facts(self) -> dict[str, float]:
        """Images in the training part, those with a label, and the head's share of right answers on the test part."""
        found: dict[str, float] = json.loads((self.home / "facts.json").read_text())
        return found

    @property
    def reference(self) -> torch.Tensor:
        """Class means as the re-enacted code takes them, float32 [C, D]."""
        means: torch.Tensor = torch.load(self.home / "reference.pt", weights_only=True)
        return means


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
    for number, members in _by_class(items, np.arange(len(items))).items():
        fold_of[generator(0, "folds", number).permutation(members)] = np.arange(len(members)) % folds
    return fold_of


def with_labels(items: list[PackItem], train: NDArray[np.int64], shots: int, fold: int) -> list[PackItem]:
    """The items of a fold's training part, of which so many a class keep their label; 0 keeps all."""
    chosen: set[int] = set()
    for number, members in _by_class(items, train).items():
        chosen |= set(generator(fold, "shots", number).permutation(members)[: shots or None].tolist())
    return [replace(items[at], split="train", label=items[at].label if at in chosen else NO_LABEL) for at in train]


def make_fold(job: tuple[Fold, int, int]) -> Fold:
    """Shards, store, head and class means of one fold; what is there already is left as it is.

    Args:
        job: The fold, how many there are, and how many training images a class keep their label.
    """
    fold, folds, shots = job
    torch.set_num_threads(1)
    if (fold.home / "facts.json").exists():
        return fold
    items, classes = embedded_items()
    fold_of = assign_folds(items, folds)
    train = without_a_lonely_one(with_labels(items, np.flatnonzero(fold_of != fold.number), shots, fold.number))
    test = [replace(items[at], split="test") for at in np.flatnonzero(fold_of == fold.number)]
    if not (fold.home / "shards" / "index.json").exists():
        write_shards([*train, *test], fold.home / "shards", classes=classes, rows_per_shard=256)
    head = _store(fold)
    torch.save(reference_means(open_store(fold.store).teacher(TEACHER), "pooled", seed=fold.number), _means(fold))
    facts = {"train": len(train), "labelled": sum(i.label != NO_LABEL for i in train), "head_top1": head}
    (fold.home / "facts.json").write_text(json.dumps(facts))
    return fold


def without_a_lonely_one(train: list[PackItem]) -> list[PackItem]:
    """Without the last unlabelled image where batches would leave one alone, from which BatchNorm learns nothing."""
    if len(train) % _BATCH != 1:
        return train
    lonely = max((at for at, item in enumerate(train) if item.label == NO_LABEL), default=len(train) - 1)
    return [*train[:lonely], *train[lonely + 1 :]]


def _store(fold: Fold) -> float | None:
    """Rows, class means (and random ones, as a control) and a head; the head's top-1 on the test part."""
    config = load_config(
        values={
            "data.shards": str(fold.home / "shards"),
            "precompute.out": fold.store,
            "precompute.outputs": ["pooled"],
            "precompute.threads": 1,
            "precompute.decode_workers": 0,
            "head.store": fold.store,
            "head.l2": _L2,
            "head.folds": _FOLDS_OF_HEAD,
            "head.device": "cpu",
        }
    )
    precompute(config)
    view = open_store(fold.store).teacher(TEACHER)
    true = view.class_set(default_name(config.average.per_class, config.average.seed), "pooled")
    noise = generator(fold.number, "random means").normal(size=true.mean.shape).astype(np.float32)
    write_class_set(view, "pooled", replace(true, name=RANDOM_MEANS, mean=noise))
    return make_head(config.head, config.average).test_top1


def _means(fold: Fold) -> Path:
    return fold.home / "reference.pt"


def _by_class(items: list[PackItem], chosen: NDArray[np.int64]) -> dict[int, list[int]]:
    found = defaultdict(list)
    for at in chosen.tolist():
        found[items[at].label].append(at)
    return found
