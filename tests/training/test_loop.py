import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from embedkd.errors import Interrupted, TrainingError
from embedkd.training import loop
from embedkd.training.distributed import ALONE
from embedkd.training.loop import Budget, fit
from embedkd.training.state import Position, StepValues
from embedkd.training.validation import Accuracy

FINE = StepValues(1.0, {"mse": 1.0}, 1.0, 0.1)
BROKEN = StepValues(math.nan, {"mse": math.nan}, 1.0, 0.1)


class Scene:
    """A learner and a recorder that write down what the loop asks of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, top1: Sequence[float] = (), fails_at: int = -1) -> None:
        self.events: list[str] = []
        self.position = Position()
        self.student = torch.nn.Identity()
        self.judged = self.student
        self.device = torch.device("cpu")
        self.ranks = ALONE
        self._fails_at = fails_at
        self._top1 = iter(top1)
        monkeypatch.setattr(loop, "accuracy", self._accuracy)

    def _accuracy(
        self, student: object, batches: object, device: object, stop: Callable[[], bool], ranks: object
    ) -> Accuracy | None:
        assert student is self.judged
        return None if stop() else Accuracy(int(next(self._top1) * 100), 100)

    def keys(self, batches: object) -> list[str]:
        return []

    def gradients(self, *batches: object) -> StepValues:
        return BROKEN if self.position.step + 1 == self._fails_at else FINE

    def update(self) -> None:
        self.position.step += 1

    def step(self, step: int, epoch: int, values: StepValues) -> None:
        self.events.append(f"step {step} of epoch {epoch}")

    def validation(self, step: int, epoch: int, found: Accuracy, *, better: bool) -> None:
        self.events.append(f"validation {epoch} {found.top1} {'better' if better else 'not better'}")

    def checkpoint(self, learner: object) -> None:
        self.events.append(f"checkpoint {self.position.step} {self.position.epochs_ended}")

    def best(self, learner: object) -> None:
        self.events.append(f"best {self.position.best_epoch}")

    def failed(self, step: int, keys: Sequence[str], values: StepValues) -> TrainingError:
        return TrainingError("not finite")

    def fit(self, budget: Budget, *, validation: Any = (), stop: Callable[[], bool] = bool, batches: int = 99) -> None:
        fit(self, [(SimpleNamespace(),)] * batches, validation, budget, self, stop)  # type: ignore[arg-type,list-item]


def test_each_epoch_ends_with_validation_and_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, top1=[0.5, 0.25, 0.75])
    scene.fit(Budget(epochs=3, steps_per_epoch=2))
    assert scene.events == [
        *("step 1 of epoch 1", "step 2 of epoch 1", "best 1", "validation 1 0.5 better", "checkpoint 2 1"),
        *("step 3 of epoch 2", "step 4 of epoch 2", "validation 2 0.25 not better", "checkpoint 4 2"),
        *("step 5 of epoch 3", "step 6 of epoch 3", "best 3", "validation 3 0.75 better", "checkpoint 6 3"),
    ]
    assert (scene.position.best_top1, scene.position.best_epoch) == (0.75, 3)


def test_an_equal_student_does_not_replace_the_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, top1=[0.5, 0.5])
    scene.fit(Budget(epochs=2, steps_per_epoch=1))
    assert scene.position.best_epoch == 1


def test_the_last_epoch_is_always_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, top1=[0.5] * 3)
    scene.fit(Budget(epochs=5, steps_per_epoch=1, validate_every_epochs=2))
    assert [event[:12] for event in scene.events if event.startswith("val")] == [
        f"validation {n}"[:12] for n in (2, 4, 5)
    ]
    assert [event for event in scene.events if event.startswith("check")] == [
        f"checkpoint {n} {n}" for n in range(1, 6)
    ]


def test_checkpoints_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, top1=[0.5] * 2)
    scene.fit(Budget(epochs=2, steps_per_epoch=4, checkpoint_every_steps=2))
    found = [event for event in scene.events if event.startswith("check")]
    assert found == ["checkpoint 2 0", "checkpoint 4 1", "checkpoint 6 1", "checkpoint 8 2"]


def test_without_validation_split_the_last_student_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.fit(Budget(epochs=2, steps_per_epoch=1), validation=None)
    assert [event for event in scene.events if event.startswith("best")] == ["best 1", "best 2"]
    assert (scene.position.best_top1, scene.position.best_epoch) == (None, 2)


def test_a_wish_to_stop_is_granted_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, top1=[0.5])
    with pytest.raises(Interrupted, match="stopped after step 3 of 4; add --resume to the same command to go on"):
        scene.fit(Budget(epochs=2, steps_per_epoch=2), stop=lambda: scene.position.step == 3)
    assert scene.events[-2:] == ["step 3 of epoch 2", "checkpoint 3 1"]


def test_a_wish_at_the_end_of_an_epoch_leaves_its_validation_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, top1=[0.5, 0.75])
    budget = Budget(epochs=2, steps_per_epoch=2)
    with pytest.raises(Interrupted):
        scene.fit(budget, stop=lambda: scene.position.step == 2)
    assert scene.events[-1] == "checkpoint 2 0"
    scene.events.clear()
    scene.fit(budget)
    assert scene.events[:3] == ["best 1", "validation 1 0.5 better", "checkpoint 2 1"]


def test_a_wish_during_validation_is_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, top1=[0.5])
    answers = iter([False, False, True, True])  # before two steps, at the end of the epoch, and in its validation
    with pytest.raises(Interrupted):
        scene.fit(Budget(epochs=1, steps_per_epoch=1), stop=lambda: next(answers))
    assert scene.events == ["step 1 of epoch 1", "checkpoint 1 0"]


def test_a_batch_without_finite_loss_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, top1=[0.5], fails_at=3)
    with pytest.raises(TrainingError, match="not finite"):
        scene.fit(Budget(epochs=2, steps_per_epoch=2))
    assert scene.position.step == 2
    assert scene.events[-1] == "checkpoint 2 1"


def test_data_that_ends_too_early_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, top1=[0.5])
    with pytest.raises(TrainingError, match="the data ended after step 3 of 4"):
        scene.fit(Budget(epochs=2, steps_per_epoch=2), batches=3)


def test_a_finished_position_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.position.step, scene.position.epochs_ended = 4, 2
    scene.fit(Budget(epochs=2, steps_per_epoch=2), batches=0)
    assert scene.events == []


@pytest.mark.parametrize(("step", "start"), [(0, (0, 0)), (2, (0, 2)), (3, (1, 0)), (7, (2, 1))])
def test_where_the_next_batch_lies(step: int, start: tuple[int, int]) -> None:
    assert Budget(epochs=3, steps_per_epoch=3).start(step) == start
