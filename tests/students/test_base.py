import pytest
import torch
from torch import nn

from embedkd.students import Student, StudentOutput, parameter_count
from embedkd.students.base import drawn_from


class Mean(Student):
    """The least that a student can be."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_dim, self.num_classes, self.image_px = 3, 2, 4
        self.head = nn.Linear(3, 2)

    def forward(self, pixels: torch.Tensor) -> StudentOutput:
        embedding = pixels.mean(dim=(2, 3))
        return StudentOutput(embedding, self.head(embedding))


def test_a_student_of_another_kind_decays_everything() -> None:
    assert Mean().no_weight_decay() == set()


def test_an_output_can_be_taken_by_name_and_by_place() -> None:
    answer = Mean()(torch.ones(1, 3, 4, 4))

    embedding, logits, taps = answer
    assert embedding is answer.embedding
    assert logits is answer.logits
    assert not taps


def test_a_shared_parameter_counts_once() -> None:
    layer = nn.Linear(3, 3)

    assert parameter_count(nn.Sequential(layer, layer)) == 12


def test_streams_of_other_seeds_differ() -> None:
    draws = []
    for seed in (0, 1, 0):
        with drawn_from(seed):
            draws.append(torch.rand(4))

    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_the_global_generator_is_put_back_when_building_fails() -> None:
    state = torch.get_rng_state()

    with pytest.raises(RuntimeError, match="mat1 and mat2"), drawn_from(0):
        nn.Linear(3, 2)(torch.rand(1, 4))

    assert torch.equal(torch.get_rng_state(), state)
