import numpy as np
import pytest
import torch
from torch import Tensor, nn

from embedkd.errors import TrainingError
from embedkd.evaluation import Collected, collect
from embedkd.join import Batch
from embedkd.students import Student, StudentOutput


class Echo(Student):
    """Says the mean of each channel as embedding and twice that as logits; tells in which mode it was asked."""

    embedding_dim = 3
    num_classes = 3
    image_px = 2

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dtype = dtype
        self.asked: list[tuple[bool, bool]] = []

    def forward(self, pixels: Tensor) -> StudentOutput:
        self.asked.append((self.training, torch.is_inference_mode_enabled()))
        means = (pixels.mean((2, 3)) * self.scale).to(self.dtype)
        return StudentOutput(means, 2 * means)


def batch(values: list[float], valid: list[bool] | None = None, labels: list[int] | None = None) -> Batch:
    pixels = torch.tensor(values, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2)
    return Batch(
        keys=tuple(f"k{value:g}" for value in values),
        pixels=pixels,
        labels=torch.tensor(labels or [0] * len(values)),
        targets={},
        valid=torch.tensor(valid or [True] * len(values)),
    )


def test_keeps_the_order_and_drops_padding() -> None:
    found = collect(Echo(), [batch([3, 1], labels=[2, 1]), batch([2, 9, 3], [True, False, False])])
    assert found.keys == ("k3", "k1", "k2")
    assert found.embeddings.tolist() == [[3.0] * 3, [1.0] * 3, [2.0] * 3]
    assert found.logits.tolist() == [[6.0] * 3, [2.0] * 3, [4.0] * 3]
    assert found.labels.tolist() == [2, 1, 0]
    assert [str(a.dtype) for a in (found.embeddings, found.logits, found.labels)] == ["float32", "float32", "int64"]
    assert len(found) == 3


@pytest.mark.parametrize("training", [True, False])
def test_asks_in_evaluation_mode_without_gradients_and_leaves_the_mode(training: bool) -> None:
    student = Echo().train(training)
    collect(student, [batch([1]), batch([2])])
    assert student.asked == [(False, True)] * 2
    assert student.training is training


def test_leaves_the_mode_also_when_the_data_fails() -> None:
    student = Echo().train()
    with pytest.raises(ZeroDivisionError):
        collect(student, (batch([1 / n]) for n in (1, 0)))
    assert student.training


def test_a_student_of_half_precision_gives_float32() -> None:
    found = collect(Echo(torch.bfloat16), [batch([1.5])])
    assert found.embeddings.dtype == found.logits.dtype == np.float32


@pytest.mark.parametrize("batches", [[], [batch([1, 2], [False, False])]])
def test_no_sample_is_said_so(batches: list[Batch]) -> None:
    with pytest.raises(TrainingError, match="expected samples"):
        collect(Echo(), batches)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_answers_that_are_not_finite_are_named(bad: float) -> None:
    with pytest.raises(TrainingError, match=r"1 of 3 samples are not finite \(first: k"):
        collect(Echo(), [batch([1]), batch([2, bad])])


def test_padding_may_hold_anything() -> None:
    assert len(collect(Echo(), [batch([1, float("nan")], [True, False])])) == 1


def collected(labels: list[int]) -> Collected:
    rows = np.arange(2 * len(labels), dtype=np.float32).reshape(-1, 2)
    return Collected(rows, rows + 1, np.array(labels), tuple(map(str, range(len(labels)))))


def test_labelled_leaves_out_the_others() -> None:
    found = collected([1, -1, 0]).labelled()
    assert (found.keys, found.labels.tolist()) == (("0", "2"), [1, 0])
    assert found.embeddings.tolist() == [[0, 1], [4, 5]]
    assert found.logits.tolist() == [[1, 2], [5, 6]]


def test_no_label_at_all_and_a_label_that_is_no_class_are_errors() -> None:
    with pytest.raises(TrainingError, match="expected labelled samples"):
        collected([-1, -1]).labelled()
    with pytest.raises(TrainingError, match=r"sample 1 has label 2, the student knows 2 classes"):
        collected([0, 2, 1]).labelled()
