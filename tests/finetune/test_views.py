"""Views: a function of image and seed, in the teacher's own size and normalisation."""

import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from embedkd.errors import TrainingError
from embedkd.finetune.views import TeachersView, TrainingView
from embedkd.records import Preprocess
from embedkd.teachers.runner import TorchTeacher

PREPROCESS = Preprocess(8, (6, 10), "bilinear", (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8))


def test_a_view_is_a_function_of_the_seed_and_leaves_the_generator_alone() -> None:
    view = pickle.loads(pickle.dumps(TrainingView(PREPROCESS, min_crop_area=0.3, flip=0.5)))
    before = torch.default_generator.get_state()
    first, second, other = view(noise(), 7), view(noise(), 7), view(noise(), 8)
    assert torch.equal(torch.default_generator.get_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.shape == (3, 6, 10)
    assert first.dtype == torch.float32


def test_a_plain_view_has_the_teachers_mean_and_std() -> None:
    grey = Image.new("RGB", (20, 24), (51, 51, 51))
    seen = TrainingView(PREPROCESS, min_crop_area=1, flip=0.0)(grey, 0)
    for channel, mean, std in zip(seen, PREPROCESS.mean, PREPROCESS.std, strict=True):
        torch.testing.assert_close(channel, torch.full((6, 10), (0.2 - mean) / std))


def test_flips_happen_as_often_as_said() -> None:
    image = Image.fromarray(np.tile(np.arange(0, 240, 10, dtype=np.uint8)[None, :, None], (20, 1, 3)))
    rising = [
        bool(v[0, 0, 0] < v[0, 0, -1])
        for v in (TrainingView(PREPROCESS, min_crop_area=1, flip=0.25)(image, s) for s in range(400))
    ]
    flipped = 1 - float(np.mean(rising))
    assert flipped == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 400))


def test_an_interpolation_that_torchvision_lacks() -> None:
    with pytest.raises(TrainingError, match=r"expected a teacher that resizes by one of .*bicubic.*, got 'magic'"):
        TrainingView(replace(PREPROCESS, interpolation="magic"), min_crop_area=0.5, flip=0.5)


def test_the_teachers_view_is_its_preprocess(load_toy: Callable[..., TorchTeacher]) -> None:
    teacher = load_toy()
    view = pickle.loads(pickle.dumps(TeachersView(teacher.preprocess)))
    assert torch.equal(view(noise(), 3), teacher.preprocess(noise()))
