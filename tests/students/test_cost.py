from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from embedkd.students import build_student, describe_student, multiply_adds


class Attention(nn.Module):
    """One head over tokens [B, N, D] that serve as queries, keys and values."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("module", "shape", "by_hand"),
    [
        (nn.Linear(7, 5), (2, 7), 2 * 7 * 5),
        # A kernel of 3 x 3 over 4 channels for each of 8 x 9 x 9 results.
        (nn.Conv2d(4, 8, 3, padding=1), (1, 4, 9, 9), 3 * 3 * 4 * 8 * 9 * 9),
        # With groups each result sees a half of the channels, with a stride there are fewer results.
        (nn.Conv2d(4, 8, 3, padding=1, groups=2, stride=2), (1, 4, 8, 8), 3 * 3 * 2 * 8 * 4 * 4),
        # Scores and their use: each N x N x D.
        (Attention(), (1, 1, 6, 8), 2 * 6 * 6 * 8),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), (1, 3, 4, 4), 0),
    ],
)
def test_counts_agree_with_those_by_hand(module: nn.Module, shape: tuple[int, ...], by_hand: int, device: str) -> None:
    assert multiply_adds(deepcopy(module).eval().to(device), torch.zeros(shape, device=device)) == by_hand


def test_a_vision_transformer_agrees_with_a_count_by_hand() -> None:
    tokens, width, mlp, layers, classes = 16 + 1, 128, 512, 4, 10
    block = tokens * (4 * width * width + 2 * width * mlp) + 2 * tokens * tokens * width
    by_hand = 16 * (3 * 8 * 8) * width + layers * block + width * classes

    assert describe_student("vit-tiny", num_classes=classes, image_px=32).multiply_adds == by_hand


def test_counting_leaves_parameters_mode_and_generator_as_they_are() -> None:
    layer, state = nn.Linear(3, 3), torch.get_rng_state()

    multiply_adds(layer, torch.zeros(1, 3))

    assert layer.weight.requires_grad
    assert layer.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_built_student_says_what_it_was_described_to_cost() -> None:
    student = build_student("timm:resnet18", num_classes=10, image_px=32)

    # The published 1.82 G at 224 px are 49 times the convolutions at 32 px.
    assert student.multiply_adds == describe_student("timm:resnet18", num_classes=10, image_px=32).multiply_adds
    assert describe_student("timm:resnet18", num_classes=1000, image_px=224).multiply_adds == 1_814_073_344
