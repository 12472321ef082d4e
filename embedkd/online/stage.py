"""What ``embedkd train --online-teacher`` does: the same run, with the teacher beside the student in every step."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError
from embedkd.online.teachers import OnlineTeachers
from embedkd.training import train

if TYPE_CHECKING:
    from embedkd.config import Config
    from embedkd.progress import Progress
    from embedkd.training import TrainResult


def train_online(config: "Config", *, resume: bool = False, progress: "Progress | None" = None) -> "TrainResult":
    """Train with rows that the teacher says in every step of what the student sees, in place of stored ones.

    Which samples take part, class sets, heads and the teacher's scale are the store's. Everything else is as in
    `embedkd.training.train`.

    Args:
        config: As there; ``train.targets`` says which teachers, ``train.online_weights`` where the weights lie now.
        resume: As there.
        progress: As there.

    Raises:
        ConfigError: No loss reads rows, or the student sees what a teacher cannot be shown.
        TeacherError: A teacher cannot be loaded, or is another one than the store's.
        EmbedKDError: As there.
    """
    augment = config.augment
    if augment.rand_augment and augment.rand_moves:
        raise ConfigError(
            "augment.rand_moves: expected false with --online-teacher, got true: the teacher cannot be shown the same "
            "shears, shifts and rotations"
        )
    config = replace(config, train=replace(config.train, online_teacher=True))
    weights, trusted = config.train.online_weights, config.precompute.trust_code
    return train(
        config,
        resume=resume,
        progress=progress,
        live=partial(OnlineTeachers, weights=weights, trusted_code=trusted),
    )
