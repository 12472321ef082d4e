import math

import pytest
import torch

from embedkd.errors import LossError
from embedkd.losses import fusion_contrastive
from tests.losses.naive import cosine, rows, softmax

STUDENT, TARGET, CLASSES = rows(5, 6, seed=1), rows(5, 6, seed=2), rows(4, 6, seed=3)
LABELS, SCALE = torch.tensor([0, 3, 1, 1, 2]), torch.tensor(14.0, dtype=torch.float64).log()
WEIGHT, BIAS = rows(6, 12, seed=4), rows(6, seed=5)


def test_agrees_with_a_naive_loop() -> None:
    expected = 0.0
    for ours, theirs, label in zip(STUDENT.tolist(), TARGET.tolist(), LABELS.tolist(), strict=True):
        both = [x / math.hypot(*ours) for x in ours] + [x / math.hypot(*theirs) for x in theirs]
        fused = [
            bias + sum(w * x for w, x in zip(row, both, strict=True))
            for row, bias in zip(WEIGHT.tolist(), BIAS.tolist(), strict=True)
        ]
        expected -= math.log(softmax([14 * cosine(fused, one) for one in CLASSES.tolist()])[label]) / 5

    value = fusion_contrastive(STUDENT, TARGET, CLASSES, LABELS, SCALE, WEIGHT, BIAS)

    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_closed_forms() -> None:
    eye, labels = torch.eye(8, dtype=torch.float64), torch.arange(8)
    half = torch.cat([eye, 0 * eye], dim=1)

    perfect = fusion_contrastive(eye, -eye, eye, labels, SCALE, half, 0 * eye[0])
    chance = fusion_contrastive(eye, eye, eye, labels, SCALE, 0 * half, torch.ones_like(eye[0]))

    assert perfect.item() == pytest.approx(math.log1p(7 * math.exp(-14)), rel=1e-9)
    assert chance.item() == pytest.approx(math.log(8), rel=1e-12)


def test_a_layer_that_does_not_take_both_halves_is_refused() -> None:
    with pytest.raises(LossError, match=r"expected fusion_weight_DE \[D, E\] with E = 12, got \[6, 6\]"):
        fusion_contrastive(STUDENT, TARGET, CLASSES, LABELS, SCALE, WEIGHT[:, :6], BIAS)
