"""A teacher in the loop sees the student's very view."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from embedkd.config import AugmentConfig
from embedkd.join import JoinedShards, stored_samples
from embedkd.online.views import TeachersView
from embedkd.records import DecodePolicy, Preprocess
from embedkd.sources.images import decode_image
from embedkd.store import TeacherView
from embedkd.students.spec import IMAGENET_MEAN, IMAGENET_STD
from embedkd.teachers.squash import Squash
from embedkd.training.augment import Augment
from embedkd.training.lesson import without_padding
from tests.tiny import augmented, to_pixels

PX = 12
FACTS = Preprocess(PX, (PX, PX), "bicubic", IMAGENET_MEAN, IMAGENET_STD)
COLOURS: dict[str, Any] = {"rand_augment": 2, "rand_moves": False, "colour_jitter": 0.4, "grey": 0.5, "erase": 1.0}


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


def refuse(image: Image.Image) -> torch.Tensor:
    raise AssertionError(f"a part of an image of {image.size} px was prepared as a whole one")


def student(**settings: Any) -> Augment:
    return Augment(AugmentConfig(**{"flip": 0.0, **settings}), image_px=PX)


@pytest.mark.parametrize(
    ("options", "size"),
    [({"min_crop_area": 0.3, "flip": 0.5}, (40, 29)), ({"crop_padding_px": 3, "flip": 0.5}, (PX, PX))],
    ids=["crops", "padding"],
)
def test_at_the_students_resolution_both_see_the_same_pixels(options: dict[str, float], size: tuple[int, int]) -> None:
    image, augment = photo(*size), student(**options)
    beside = TeachersView(augment, refuse, Squash(FACTS))
    views = [(augment(image, seed), beside(image, seed)) for seed in range(20)]
    assert all(torch.equal(ours, theirs) for ours, theirs in views)
    assert len({ours.sum().item() for ours, _ in views}) > 10  # they were other views


def test_colours_and_erasing_are_the_students_alone() -> None:
    image, options = photo(40, 29), {"min_crop_area": 0.3, "flip": 0.5}
    clean = student(**options)
    beside = TeachersView(student(**options, **COLOURS), refuse, Squash(FACTS))
    assert all(torch.equal(beside(image, seed), clean(image, seed)) for seed in range(10))


def test_a_whole_image_is_prepared_by_the_teachers_own_library() -> None:
    image = photo(40, 29)
    still, mirrored = (TeachersView(student(flip=flip), to_pixels, Squash(FACTS)) for flip in (0.0, 1.0))
    assert torch.equal(still(image, 5), to_pixels(image))
    assert torch.equal(mirrored(image, 5), to_pixels(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))


def test_it_pickles_for_loader_workers() -> None:
    beside = TeachersView(student(min_crop_area=0.3), to_pixels, Squash(FACTS))
    again = pickle.loads(pickle.dumps(beside))
    assert torch.equal(again(photo(40, 29), 7), beside(photo(40, 29), 7))


def test_images_are_decoded_once_and_all_get_the_same_seed(
    view: TeacherView, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decoded = []
    samples = stored_samples(view, "train", data=str(tmp_path / "data"))
    plain = JoinedShards(samples, augmented, global_batch_size=5, seed=3)
    both = plain.beside({"again": augmented, "plain": lambda image, seed: to_pixels(image)})

    def decode(data: bytes, policy: DecodePolicy) -> Image.Image:
        decoded.append(data)
        return decode_image(data, policy)

    monkeypatch.setattr("embedkd.join.dataset.decode_image", decode)
    batches = list(both)
    assert len(decoded) == samples.rows
    for batch, alone in zip(batches, plain, strict=True):
        assert torch.equal(batch.pixels, alone.pixels)
        assert torch.equal(batch.beside["again"], batch.pixels)
        assert torch.equal(batch.beside["plain"][:, 1:], batch.pixels[:, 1:])
        assert not alone.beside
    short = without_padding(replace(batches[-1], valid=torch.tensor([True, False, True])))
    assert torch.equal(short.beside["again"], short.pixels)
    assert len(short.pixels) == 2
