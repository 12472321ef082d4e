import itertools
from collections.abc import Iterator

import pytest
import torch

from embedkd.errors import TrainingError
from embedkd.join import Batch
from embedkd.students import Student, StudentOutput
from embedkd.training.validation import Accuracy, accuracy

CPU = torch.device("cpu")


class Reader(Student):
    """Says the class that is written in the first pixel; refuses to be asked while it trains."""

    def forward(self, pixels: torch.Tensor) -> StudentOutput:
        assert not self.training
        assert not torch.is_grad_enabled()
        said = pixels[:, 0, 0, 0].long()
        return StudentOutput(pixels[:, 0, 0, :1], torch.nn.functional.one_hot(said, 4).float())


def batch(said: list[int], labels: list[int], valid: list[bool] | None = None) -> Batch:
    return Batch(
        keys=tuple(map(str, said)),
        pixels=torch.tensor(said, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2),
        labels=torch.tensor(labels),
        targets={},
        valid=torch.tensor(valid or [True] * len(said)),
    )


def test_right_answers_are_counted_over_all_batches() -> None:
    found = accuracy(Reader(), [batch([0, 1, 2], [0, 1, 1]), batch([3], [3])], CPU)
    assert found == Accuracy(hits=3, rows=4)
    assert found.top1 == 0.75


def test_padding_and_samples_without_label_do_not_count() -> None:
    found = accuracy(Reader(), [batch([0, 1, 2, 3], [0, 0, -1, 3], [True, True, True, False])], CPU)
    assert found == Accuracy(hits=1, rows=2)


def test_a_split_without_labels_is_refused() -> None:
    with pytest.raises(TrainingError, match="expected labelled samples"):
        accuracy(Reader(), [batch([0], [-1])], CPU)


def test_it_stops_when_told_to() -> None:
    asked = itertools.count()

    def batches() -> Iterator[Batch]:
        yield batch([0], [0])
        yield batch([0], [0])
        raise AssertionError("read on after it was told to stop")

    assert accuracy(Reader(), batches(), CPU, stop=lambda: next(asked) == 1) is None


@pytest.mark.parametrize("training", [True, False])
def test_the_student_is_left_in_the_mode_it_came_in(training: bool) -> None:
    student = Reader().train(training)
    accuracy(student, [batch([0], [0])], CPU)
    assert student.training is training
