"""A run before its first step: everything is found and checked, and nothing is written."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from embedkd.errors import ConfigError
from embedkd.join import JoinedShards, Samples, make_loader
from embedkd.rundir import usable_cpus
from embedkd.students import StudentOptions
from embedkd.training.augment import Augment, FixedView
from embedkd.training.average import MovingAverage, synchronised
from embedkd.training.data import TrainingData, open_data
from embedkd.training.device import Precision, resolve_device, resolve_precision, resolve_workers
from embedkd.training.distributed import ALONE, Ranks
from embedkd.training.division import Division
from embedkd.training.dropping import TeacherDropping
from embedkd.training.lesson import Lesson
from embedkd.training.loop import Budget
from embedkd.training.mixing import Mixing
from embedkd.training.objective import Objective
from embedkd.training.optim import Schedule, build_optimiser
from embedkd.training.saved import StudentCard, begin_student
from embedkd.training.state import Learner
from embedkd.training.stores import found_before, named_entries
from embedkd.training.terms import Term, build_terms, check_batch_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.utils.data import DataLoader

    from embedkd.config import Config, StudentConfig
    from embedkd.join import Batch
    from embedkd.join.dataset import Transform
    from embedkd.rundir import RunDir
    from embedkd.students import Student
    from embedkd.training.live import LiveTeacher


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
        division: How the samples of an epoch are divided into steps, parts and ranks.
        ranks: The processes that take part.
    """

    config: "Config"
    terms: tuple[Term, ...]
    view_mismatch: tuple[str, ...]
    device: torch.device
    precision: Precision
    workers: int
    data: TrainingData
    budget: Budget
    division: Division
    ranks: Ranks = ALONE

    @classmethod
    def of(cls, config: "Config", ranks: Ranks = ALONE) -> "Plan":
        """Look up every name and open everything that the config points to.

        Raises:
            EmbedKDError: Something cannot be used.
        """
        settings = config.train
        terms = build_terms(config.losses, config.loss_options)
        check_batch_size(terms, settings.global_batch_size // settings.accumulate)
        device = resolve_device(settings.device, ranks)
        data = open_data(config, terms)
        division = Division(data.train.rows, settings.global_batch_size, settings.accumulate, ranks)
        return cls(
            config=config,
            terms=data.terms,
            view_mismatch=_view_mismatch(config, data),
            device=device,
            precision=resolve_precision(settings.precision, device),
            workers=resolve_workers(settings.workers, device, max(1, usable_cpus() // ranks.local_size)),
            data=data,
            budget=Budget(
                epochs=settings.epochs,
                steps_per_epoch=division.steps,
                validate_every_epochs=settings.validate_every_epochs,
                checkpoint_every_steps=settings.checkpoint_every_steps,
            ),
            division=division,
            ranks=ranks,
        )

    @property
    def recorded(self) -> "Config":
        """The config as the run folder keeps it: with the teachers named that it found."""
        settings = self.config.train
        return replace(self.config, train=replace(settings, targets=named_entries(self.data.teachers)))

    def build(self, live: "LiveTeacher | None" = None) -> tuple[Learner, StudentCard]:
        """The student with all it learns by, at step 0, and how to build it again.

        Args:
            live: Says the rows of each batch in place of the store.
        """
        config, seed = self.config, self.config.train.seed
        student, card = begin_student(
            config.student.name,
            _student_options(config.student, self.terms),
            num_classes=self.data.num_classes,
            image_px=config.student.image_px,
            class_names=self.data.class_names,
            seed=seed,
        )
        _check_smallest_batch(student, card.name, self.division)
        objective = Objective(
            self.terms,
            student_dim=student.embedding_dim,
            tap_dims=student.tap_dims,
            num_classes=self.data.num_classes,
            targets=self.data.targets,
            class_names=self.data.class_names,
            seed=seed,
            unlabelled=config.train.keep_unlabelled,
        )
        bases = {teacher.name: teacher.base for teacher in self.data.teachers if teacher.base is not None}
        lesson = Lesson(
            self._placed(student),
            objective.to(self.device),
            device=self.device,
            precision=self.precision,
            mixing=Mixing.of(config.augment, image_px=card.image_px, seed=seed),
            dropping=TeacherDropping.of(self.terms, config.train.teacher_drop, seed, bases),
            live=live,
        )
        return self._learner(lesson), card

    def _placed(self, student: "Student") -> "Student":
        """The student on its device, its norms over the samples of all ranks where torch can, which is on CUDA."""
        student.to(self.device)
        return synchronised(student) if self.ranks.several and self.device.type == "cuda" else student

    def _learner(self, lesson: Lesson) -> Learner:
        train, rates = self.config.train, self.config.optimiser
        average = MovingAverage(lesson.student, lesson.objective, train.ema_decay) if train.ema_decay else None
        if train.compile:
            lesson.student.compile()  # in place, so that the names of its weights stay
        optimiser = build_optimiser(
            (lesson.student, lesson.objective),
            name=rates.name,
            lr=rates.lr,
            weight_decay=rates.weight_decay,
            betas=rates.betas,
            momentum=rates.momentum,
            nesterov=rates.nesterov,
        )
        schedule = Schedule(
            optimiser,
            steps=self.budget.steps,
            warmup_steps=round(rates.warmup_epochs * self.budget.steps_per_epoch),
            name=rates.schedule,
            final_lr_ratio=rates.final_lr_ratio,
            decay_steps=max(1, round(rates.decay_epochs * self.budget.steps_per_epoch)),
            decay_rate=rates.decay_rate,
        )
        return Learner(
            lesson,
            optimiser,
            schedule,
            clip_grad_norm=rates.clip_grad_norm,
            seed=train.seed,
            division=self.division,
            average=average,
        )

    def training_batches(self, card: StudentCard, step: int, live: "LiveTeacher | None" = None) -> "DataLoader[Batch]":
        """This rank's batches for a student after so many steps, augmented, to the end of the last epoch.

        ``division.by_step`` gives them by step.
        """
        squash = bool(self.data.train.views)  # as the teacher saw them: the whole of a crop, whatever its shape
        view = Augment(self.config.augment, image_px=card.image_px, mean=card.mean, std=card.std, squash=squash)
        epoch, within = self.budget.start(step)
        return self._loader(
            self.data.train,
            view,
            epochs=self.budget.epochs,
            start=(epoch, within * self.config.train.accumulate),
            seed=self.config.train.seed,
            beside={} if live is None else live.beside(view),
        )

    def held_out_batches(self, card: StudentCard, samples: Samples | None) -> "DataLoader[Batch] | None":
        """This rank's part of a held-out split for a student, in its own order, unaugmented; None of none."""
        if samples is None:
            return None
        return self._loader(samples, card.view(), shuffle=False)

    def _loader(
        self,
        samples: Samples,
        view: "Augment | FixedView",
        *,
        beside: "Mapping[str, Transform] | None" = None,
        **order: Any,
    ) -> "DataLoader[Batch]":
        ranks = (self.ranks.rank, self.ranks.size)
        dataset = JoinedShards(samples, view, global_batch_size=self.division.part_rows, ranks=ranks, **order)
        dataset = dataset.beside(beside or {})
        return make_loader(dataset, workers=self.workers, pin_memory=self.device.type == "cuda")


def as_begun(config: "Config", run: "RunDir") -> "Config":
    """The config with the teachers that a run found when it began; its stores may have got others."""
    if not run.config.exists():
        return config
    begun = run.read_config().train
    if begun.teacher != config.train.teacher:
        return config
    return replace(config, train=replace(config.train, targets=found_before(config.train.targets, begun.targets)))


def _view_mismatch(config: "Config", data: TrainingData) -> tuple[str, ...]:
    """Losses whose target belongs to pixels that the student will see moved; stored views move them for both.

    Raises:
        ConfigError: There are some, and the config does not allow it.
    """
    if config.train.online_teacher or not config.augment.moves_pixels:
        return ()
    names = tuple(term.name for term in data.terms if term.entry.per_sample)
    if names and not config.train.allow_view_mismatch:
        said = "stored views, which are cropped and flipped already" if data.train.views else "the unmoved image"
        raise ConfigError(
            f"{', '.join(names)} compares each sample with what the teacher said of {said}, but augment.* "
            "crops or flips what the student sees\n"
            "allow that with --allow-view-mismatch, or set augment.crop_padding_px=0, augment.min_crop_area=1 and "
            "augment.flip=0"
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


def _check_smallest_batch(student: "Student", name: str, division: Division) -> None:
    """Refuse a forward pass that BatchNorm could learn nothing from; the smallest ones are in the first or last step.

    Raises:
        ConfigError: It has fewer than two samples.
    """
    if not student.has_batch_norm:
        return
    least = min(min(share.counts) for step in (0, division.steps - 1) for share in division.parts(step))
    if least < 2:
        raise ConfigError(
            f"train.global_batch_size: {name} has BatchNorm, which needs at least 2 samples a forward pass, but of "
            f"{division.rows} samples an epoch batches of {division.global_batch_size} in {division.accumulate} parts "
            f"on {division.ranks.size} ranks leave {least} for one; choose another size"
        )
