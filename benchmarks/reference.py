"""The training of CLIP-Embed-KD's published code, re-enacted with its own settings, for comparisons (arXiv:2404.06170).

    python -m benchmarks.reference STORE [--data SHARDS] [--student vit-tiny] [--epochs 30] [--set KEY=VALUE ...]

What is re-enacted, each of it as that code has it:

- the student's class probabilities go into the cross-entropy, which takes a softmax of them once more;
- the contrastive term (weight 0.5, beside 1 for the other) has no temperature: a cross-entropy on bare cosines;
- the learning rate stays at 1e-4 (a cosine schedule is made and never stepped); everything decays by 0.1;
- class means are of the first 100 samples a class of a shuffled, mirrored loader; teacher and student see images
  normalised by CLIP's mean and deviation, whatever the teacher was trained with;
- the projection from teacher to student is a plain linear layer;
- the student that is reported is the one that was best on the test split.

Student, image size, crops and epochs are those of the config that is given, so that others can be compared with it
on one budget. Order and flips are seeded here, which were left to chance there.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from benchmarks.measure import finish
from embedkd.config import Config, load_config
from embedkd.evaluation.embed import collect
from embedkd.join import Batch, JoinedShards, stored_samples
from embedkd.live_verify import load_again
from embedkd.records import Preprocess
from embedkd.seeding import stream_seed
from embedkd.store import TeacherView, open_store
from embedkd.store.heads import is_derived
from embedkd.students import Student
from embedkd.training.lesson import without_padding
from embedkd.training.plan import Plan

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LR = 1e-4
WEIGHT_DECAY = 0.1
CONTRASTIVE_WEIGHT = 0.5
PER_CLASS = 100
_BATCH = 64


@dataclass(frozen=True)
class ReferenceResult:
    """What came of one training.

    Attributes:
        top1: On the test split, after each epoch.
        best_epoch: From 1; the one that the published code would report, chosen on the test split.
        right_best: Key of each test sample to whether that epoch's student was right.
        right_last: The same of the last epoch's student.
    """

    top1: list[float]
    best_epoch: int
    right_best: dict[str, bool]
    right_last: dict[str, bool]


class ClipView:
    """The reference's view of an image for a teacher: its size, perhaps mirrored, CLIP's mean and deviation."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._frame = transforms.Compose(
            [
                transforms.Resize(min(preprocess.crop_px), transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(preprocess.crop_px),
                transforms.ToTensor(),
                transforms.Normalize(CLIP_MEAN, CLIP_STD),
            ]
        )

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """float32 [3, H, W]; mirrored for every other seed."""
        view: Tensor = self._frame(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if seed % 2 else image)
        return view


def reference_means(
    view: TeacherView, output: str, *, data: str | None = None, seed: int = 0, device: str = "cpu"
) -> Tensor:
    """Class means as the published code takes them: float32 [C, D], NaN for a class without samples.

    Args:
        view: The teacher in a store; its model runs, its rows are not used.
        output: Which of the teacher's outputs.
        data: Where the shards lie; None takes what the store remembers.
        seed: Of order and flips.
        device: Where the teacher runs.
    """
    assert not is_derived(view.spec)
    assert view.store.class_names is not None
    teacher = load_again(view.spec, None, device, None)
    samples = stored_samples(view, "train", data=data, allow_partial=True)  # images without a label have no class
    batches = JoinedShards(samples, ClipView(view.spec.preprocess), global_batch_size=_BATCH, seed=seed)
    said: dict[int, list[Tensor]] = {label: [] for label in range(len(view.store.class_names))}
    for batch in map(without_padding, batches):
        for label, row in zip(batch.labels.tolist(), teacher.embed(batch.pixels, [output])[output], strict=True):
            if len(said[label]) < PER_CLASS:
                said[label].append(row)
    width = next(row.shape[0] for rows in said.values() for row in rows)
    nothing = torch.full((width,), torch.nan)
    return torch.stack([torch.stack(rows).mean(0) if rows else nothing for rows in said.values()])


def reference_loss(logits: Tensor, embedding: Tensor, labels: Tensor, projected_means: Tensor) -> Tensor:
    """The published objective. Where all of 100 classes are answered right, each of its two parts still costs 3.622.

    >>> rows, right = torch.eye(100), torch.arange(100)
    >>> round(float(reference_loss(1000 * rows, rows, right, rows)), 2)
    5.43

    Args:
        logits: [B, C], of the student's classifier.
        embedding: [B, d], of the student.
        labels: int64 [B].
        projected_means: [C, d].
    """
    cosines = functional.normalize(embedding, dim=1) @ functional.normalize(projected_means, dim=1).T
    supervised = functional.cross_entropy(logits.softmax(dim=1), labels)
    return CONTRASTIVE_WEIGHT * functional.cross_entropy(cosines, labels) + supervised


def train_reference(
    config: Config, means: Tensor, *, lr: float = LR, weight_decay: float = WEIGHT_DECAY
) -> ReferenceResult:
    """Train a config's student as the published code does; nothing is written.

    Args:
        config: Student, data, augmentation, epochs, batch size and seed; losses and optimiser are not looked at.
        means: float32 [C, D], from `reference_means`.
        lr: The rate of every step.
        weight_decay: Of every parameter.
    """
    plan = Plan.of(replace(config, losses={"cross_entropy": 1.0}, loss_options={}))
    learner, card = plan.build()
    card = replace(card, mean=CLIP_MEAN, std=CLIP_STD)
    student, device = learner.student, plan.device
    torch.manual_seed(stream_seed(config.train.seed, "reference"))
    projection = nn.Linear(means.shape[1], student.embedding_dim).to(device)
    optimiser = torch.optim.AdamW([*student.parameters(), *projection.parameters()], lr=lr, weight_decay=weight_decay)
    batches: Iterator[Batch] = iter(plan.training_batches(card, 0))
    test = plan.held_out_batches(card, plan.data.test)
    assert test is not None
    means = means.to(device)
    top1: list[float] = []
    answers: list[dict[str, bool]] = []
    for _ in range(plan.budget.epochs):
        student.train()
        for _ in range(plan.budget.steps_per_epoch):
            batch = without_padding(next(batches)).to(device)
            answer = student(batch.pixels)
            loss = reference_loss(answer.logits, answer.embedding, batch.labels, projection(means))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        answers.append(_right(student, test, str(device)))
        top1.append(sum(answers[-1].values()) / len(answers[-1]))
    best = max(range(len(top1)), key=lambda epoch: (top1[epoch], -epoch))
    return ReferenceResult(top1, best + 1, answers[best], answers[-1])


def _right(student: Student, batches: Iterable[Batch], device: str) -> dict[str, bool]:
    found = collect(student, batches, device)
    right = found.logits.argmax(axis=1) == found.labels
    return dict(zip(found.keys, right.tolist(), strict=True))


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--data")
    parser.add_argument("--output", default="pooled")
    parser.add_argument("--student", default="vit-tiny")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    values = {
        "train.targets": options.store,
        "data.shards": options.data,
        "student.name": options.student,
        "train.epochs": options.epochs,
    }
    config = load_config(values=values, sets=options.sets)
    began = time.perf_counter()
    view = open_store(options.store).teacher(config.train.teacher)
    means = reference_means(view, options.output, data=options.data, seed=config.train.seed)
    print(f"class means in {time.perf_counter() - began:.0f} s")
    found = train_reference(config, means)
    for epoch, share in enumerate(found.top1, 1):
        print(f"epoch {epoch}: test top-1 {share:.1%}")
    last = found.top1[-1]
    print(f"best on the test split after epoch {found.best_epoch}: {max(found.top1):.1%}; after the last {last:.1%}")
    finish("reference", {"top1": found.top1, "best_epoch": found.best_epoch}, options.json)


if __name__ == "__main__":
    main()
