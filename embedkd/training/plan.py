"""A run before its first step: everything is found and checked, and nothing is written."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from embedkd.errors import ConfigError
from embedkd.join import JoinedShards, Samples, make_loader
from embedkd.rundir import usable_cpus
from embedkd.students import StudentOptions
from embedkd.training.augment import Augment, FixedView
from embedkd.training.data import TrainingData, open_data
from embedkd.training.device import Precision, resolve_device, resolve_precision, resolve_workers
from embedkd.training.loop import Budget
from embedkd.training.objective import Objective
from embedkd.training.optim import Schedule, build_optimiser
from embedkd.training.saved import StudentCard, begin_student
from embedkd.training.state import Learner
from embedkd.training.terms import Term, build_terms, check_batch_size

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from embedkd.config import Config, StudentConfig
    from embedkd.join import Batch
    from embedkd.students import Student


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        config: The resolved config.
        terms: The active losses.
        view_mismatch: Losses that will compare a moved view with what the teacher said of the plain one.
        device: Where the student lies.
        precision: Of its forward pass.
        workers: Processes that read and decode.
        data: What it learns from.
        budget: How long it is.
    """

    config: "Config"
    terms: tuple[Term, ...]
    view_mismatch: tuple[str, ...]
    device: torch.device
    precision: Precision
    workers: int
    data: TrainingData
    budget: Budget

    @classmethod
    def of(cls, config: "Config") -> "Plan":
        """Look up every name and open everything that the config points to.

        Raises:
            EmbedKDError: Something cannot be used.
        """
        settings = config.train
        terms = build_terms(config.losses, config.loss_options)
        mismatch = _view_mismatch(config, terms)
        check_batch_size(terms, settings.global_batch_size)
        device = resolve_device(settings.device)
        data = open_data(config, terms)
        return cls(
            config=config,
            terms=terms,
            view_mismatch=mismatch,
            device=device,
            precision=resolve_precision(settings.precision, device),
            workers=resolve_workers(settings.workers, device, usable_cpus()),
            data=data,
            budget=Budget(
                epochs=settings.epochs,
                steps_per_epoch=-(-data.train.rows // settings.global_batch_size),
                validate_every_epochs=settings.validate_every_epochs,
                checkpoint_every_steps=settings.checkpoint_every_steps,
            ),
        )

    def build(self) -> tuple[Learner, StudentCard]:
        """The student with all it learns by, at step 0, and how to build it again."""
        config, seed = self.config, self.config.train.seed
        student, card = begin_student(
            config.student.name,
            _student_options(config.student, self.terms),
            num_classes=self.data.num_classes,
            image_px=config.student.image_px,
            class_names=self.data.class_names,
            seed=seed,
        )
        _check_smallest_batch(student, card.name, self.data.train.rows, config.train.global_batch_size)
        objective = Objective(
            self.terms,
            student_dim=student.embedding_dim,
            tap_dims=student.tap_dims,
            num_classes=self.data.num_classes,
            targets=self.data.targets,
            class_names=self.data.class_names,
            seed=seed,
        )
        student.to(self.device)
        objective.to(self.device)
        rates = config.optimiser
        optimiser = build_optimiser(
            (student, objective), lr=rates.lr, weight_decay=rates.weight_decay, betas=rates.betas
        )
        schedule = Schedule(
            optimiser,
            steps=self.budget.steps,
            warmup_steps=round(rates.warmup_epochs * self.budget.steps_per_epoch),
            final_lr_ratio=rates.final_lr_ratio,
        )
        learner = Learner(
            student,
            objective,
            optimiser,
            schedule,
            device=self.device,
            precision=self.precision,
            clip_grad_norm=rates.clip_grad_norm,
            seed=seed,
        )
        return learner, card

    def training_batches(self, card: StudentCard, step: int) -> "DataLoader[Batch]":
        """All batches for a student after so many steps, augmented, to the end of the last epoch."""
        augment = self.config.augment
        view = Augment(
            image_px=card.image_px,
            crop_padding_px=augment.crop_padding_px,
            min_crop_area=augment.min_crop_area,
            flip=augment.flip,
            mean=card.mean,
            std=card.std,
        )
        return self._loader(
            self.data.train, view, epochs=self.budget.epochs, start=self.budget.start(step), seed=self.config.train.seed
        )

    def held_out_batches(self, card: StudentCard, samples: Samples | None) -> "DataLoader[Batch] | None":
        """A held-out split for a student in its own order, unaugmented; None of none."""
        if samples is None:
            return None
        return self._loader(samples, card.view(), shuffle=False)

    def _loader(self, samples: Samples, view: "Augment | FixedView", **order: Any) -> "DataLoader[Batch]":
        dataset = JoinedShards(samples, view, global_batch_size=self.config.train.global_batch_size, **order)
        return make_loader(dataset, workers=self.workers, pin_memory=self.device.type == "cuda")


def _view_mismatch(config: "Config", terms: tuple[Term, ...]) -> tuple[str, ...]:
    """Losses whose target belongs to pixels that the student will see moved.

    Raises:
        ConfigError: There are some, and the config does not allow it.
    """
    if not config.augment.moves_pixels:
        return ()
    names = tuple(term.name for term in terms if term.entry.per_sample)
    if names and not config.train.allow_view_mismatch:
        raise ConfigError(
            f"{', '.join(names)} compares each sample with what the teacher said of the unmoved image, but augment.* "
            "crops or flips it\nallow that with --allow-view-mismatch, or set augment.crop_padding_px=0, "
            "augment.min_crop_area=1 and augment.flip=0"
        )
    return names


def _student_options(settings: "StudentConfig", terms: tuple[Term, ...]) -> StudentOptions:
    """With the inner layers that losses compare."""
    return StudentOptions(
        patch_px=settings.patch_px,
        drop_path=settings.drop_path,
        dropout=settings.dropout,
        mask_ratio=settings.mask_ratio,
        taps=tuple(sorted({term.compares.tap for term in terms if term.compares.tap is not None})),
        extra=dict(settings.options),
    )


def _check_smallest_batch(student: "Student", name: str, rows: int, batch_size: int) -> None:
    """Refuse a last step of an epoch that BatchNorm could learn nothing from.

    Raises:
        ConfigError: It has one sample.
    """
    if student.has_batch_norm and rows % batch_size == 1 % batch_size:
        raise ConfigError(
            f"train.global_batch_size: {name} has BatchNorm, which needs at least 2 samples a step, but of {rows} "
            f"samples an epoch batches of {batch_size} leave 1 for the last step; choose another size"
        )
