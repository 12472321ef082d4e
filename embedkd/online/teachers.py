"""Teachers in the loop: the models behind stored rows, and the heads on them, run on what the student sees."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from embedkd.errors import ConfigError, StoreError
from embedkd.heads.derived import derived_spec
from embedkd.live_verify import load_again
from embedkd.online.views import TeachersView
from embedkd.records import key_hash
from embedkd.store import open_store
from embedkd.store.heads import head_names, is_derived, read_head
from embedkd.teachers.squash import Squash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from embedkd.join import Batch, Target
    from embedkd.store import TeacherView
    from embedkd.store.heads import Head
    from embedkd.teachers import Teacher
    from embedkd.training.augment import Augment

_TEXT = "text"


@dataclass(frozen=True)
class Source:
    """Where the rows of a target come from while the teacher is in the loop.

    Attributes:
        target: Name of the target.
        view: The teacher with a model, in the store.
        output: Of that model.
        head: Makes its rows the target's; None where they are.
    """

    target: str
    view: "TeacherView"
    output: str
    head: "Head | None" = None

    @classmethod
    def of(cls, target: "Target") -> Self:
        """Find what is behind a target.

        Raises:
            StoreError: The target is a head's, and its base or the head itself is not in the store.
        """
        view = open_store(target.store).teacher(target.teacher_ids[0])
        if not is_derived(view.spec):
            return cls(target.name, view, target.output)
        base, head = _behind(view)
        return cls(target.name, base, head.output, head)

    def rows(self, said: "Tensor", keys: "Sequence[str]") -> "Tensor":
        """The target's rows.

        Args:
            said: float32 [B, D], of the model, on the CPU.
            keys: Of the samples: a head says of each what it says when it was fitted without that sample's fold.
        """
        if self.head is None:
            return said
        hashes = np.array([key_hash(key) for key in keys], np.uint64)
        return torch.from_numpy(self.head.logits(said.numpy(), hashes, "train"))


def _behind(view: "TeacherView") -> "tuple[TeacherView, Head]":
    """The teacher that a head was put on, and the head."""
    name, _, fingerprint = (view.spec.derived_from or "").rpartition(" ")
    bases = [key for key, spec in view.store.teachers.items() if spec.fingerprint == fingerprint]
    if not bases:
        raise StoreError(
            f"{view.spec.name} is a head on rows of {name}, which {view.store.storage.url} does not hold: no model can "
            "say its rows; train from the stored ones, without --online-teacher"
        )
    base = view.store.teacher(bases[0])
    for head_name in head_names(base):
        head = read_head(base, head_name)
        if derived_spec(base.spec, head).fingerprint == view.spec.fingerprint:
            return base, head
    raise StoreError(
        f"{view.store.storage.url} does not hold the head that {view.spec.name} was made by; fit it again with "
        "embedkd head, or train from the stored rows, without --online-teacher"
    )


class OnlineTeachers:
    """A `embedkd.training.live.LiveTeacher`: each model is loaded once, whatever is read of it.

    Rows of captions stay those of the store, since no view changes a caption.

    Args:
        targets: What the losses read of each batch.
        device: Where the models run.
        weights: Name or path to load the one model by; None takes what the store recorded.
        trusted_code: See `embedkd.teachers.LoadOptions`.

    Raises:
        ConfigError: No loss reads rows of images, or ``weights`` is given for several models.
        StoreError: What is behind a target is not in its store.
        TeacherError: A model cannot be loaded, or is another one than the store's.
    """

    def __init__(
        self,
        targets: "Sequence[Target]",
        device: "torch.device",
        *,
        weights: str | None = None,
        trusted_code: str | None = None,
    ) -> None:
        self._sources = [Source.of(target) for target in targets if target.output != _TEXT]
        views = {source.view.teacher_id: source.view for source in self._sources}
        if not views:
            raise ConfigError(
                "expected a loss that compares with what the teacher says of each image, these read classes or none; "
                "leave out --online-teacher, or choose a recipe such as clip-teacher-kd"
            )
        if weights is not None and len(views) > 1:
            names = ", ".join(view.spec.name for view in views.values())
            raise ConfigError(f"train.online_weights: expected one teacher to load by it, got {names}")
        self._teachers: dict[str, Teacher] = {
            model: load_again(view.spec, weights, str(device), trusted_code) for model, view in views.items()
        }

    def beside(self, augment: "Augment") -> dict[str, TeachersView]:
        """See `embedkd.training.live.LiveTeacher.beside`."""
        return {
            model: TeachersView(augment, teacher.preprocess, Squash(teacher.spec.preprocess))
            for model, teacher in self._teachers.items()
        }

    def rows(self, batch: "Batch") -> "dict[str, Tensor]":
        """See `embedkd.training.live.LiveTeacher.rows`."""
        wanted: dict[str, set[str]] = defaultdict(set)
        for source in self._sources:
            wanted[source.view.teacher_id].add(source.output)
        said = {
            model: teacher.embed(batch.beside[model], teacher.spec.ordered(wanted[model]))
            for model, teacher in self._teachers.items()
        }
        return {
            source.target: source.rows(said[source.view.teacher_id][source.output], batch.keys).to(batch.pixels.device)
            for source in self._sources
        }
