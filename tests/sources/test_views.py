"""Which part of an image a stored view shows: a pure function, within its bounds, distributed as torchvision's."""

import hashlib
import random
from fractions import Fraction
from itertools import product
from math import exp, log, sqrt
from typing import TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from embedkd.records import ViewSpec, key_hash
from embedkd.sources.views import Crop, crop_view, find_crop

VIEW = ViewSpec(seed=0, index=0, min_crop_area=0.35, flip=0.5)
sides = st.integers(1, 2_000)
views = st.builds(
    ViewSpec,
    seed=st.integers(0, 2**63 - 1),
    index=st.integers(0, 2**16 - 1),
    min_crop_area=st.floats(0, 1, exclude_min=True),
    flip=st.floats(0, 1),
)
hashes = st.integers(0, 2**64 - 1)


def by_the_page(size: tuple[int, int], view: ViewSpec, hashed_key: int) -> Crop:
    """The crop as docs/store-format.md defines it, in exact numbers where it asks for them."""
    width, height = size
    mirrored = False
    for attempt in range(10):
        digest = hashlib.blake2b(digest_size=40, key=str(view.seed).encode("ascii"), person=b"view")
        for number in (hashed_key, view.index, attempt):
            digest.update(number.to_bytes(8, "little"))
        flip, *numbers = (int.from_bytes(digest.digest()[at : at + 8], "little") for at in (0, 8, 16, 24, 32))
        if attempt == 0:
            mirrored = Fraction(flip, 2**64) < Fraction(view.flip)
        share, stretch = float(Fraction(numbers[0], 2**64)), float(Fraction(numbers[1], 2**64))
        area = width * height * (view.min_crop_area + (1 - view.min_crop_area) * share)
        aspect = exp(log(4 / 3) * (2 * stretch - 1))
        w, h = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = (
                int(Fraction(n, 2**64) * (m + 1)) for n, m in zip(numbers[2:], (width - w, height - h), strict=True)
            )
            return Crop(left, top, w, h, mirrored)
    w, h = min(width, round(height * (4 / 3))), min(height, round(width / 0.75))
    return Crop((width - w) // 2, (height - h) // 2, w, h, mirrored)


@settings(deadline=None, max_examples=300)
@given(st.tuples(sides, sides), views, hashes)
def test_the_crop_is_the_one_of_the_page(size: tuple[int, int], view: ViewSpec, hashed_key: int) -> None:
    assert find_crop(size, view, hashed_key) == by_the_page(size, view, hashed_key)


@settings(deadline=None, max_examples=300)
@given(st.tuples(sides, sides), views, hashes)
def test_a_crop_lies_within_the_image(size: tuple[int, int], view: ViewSpec, hashed_key: int) -> None:
    crop = find_crop(size, view, hashed_key)
    assert crop.left >= 0 <= crop.top
    assert 1 <= crop.width <= size[0] - crop.left
    assert 1 <= crop.height <= size[1] - crop.top


@settings(deadline=None, max_examples=300)
@given(st.tuples(st.integers(200, 400), st.integers(200, 400)), views, hashes)
def test_area_and_aspect_are_within_their_bounds(size: tuple[int, int], view: ViewSpec, hashed_key: int) -> None:
    """Of images that are no longer than 4:3 some part always fits, and rounding moves a side by half a pixel."""
    if max(size) > min(size) * 4 / 3:
        size = (min(size), min(size))
    crop = find_crop(size, view, hashed_key)
    least = view.min_crop_area * size[0] * size[1]
    assert (crop.width + 0.5) * (crop.height + 0.5) >= least
    assert (crop.width - 0.5) / (crop.height + 0.5) <= 4 / 3
    assert (crop.height - 0.5) / (crop.width + 0.5) <= 4 / 3


def test_a_crop_is_a_function_of_view_key_and_size_alone() -> None:
    """Whatever was asked before, in whatever order, and whatever state other generators are in."""
    asked = [
        ((w, h), ViewSpec(seed, index, 0.2, 0.5), key_hash(key))
        for w, h, seed, index, key in product((64, 97), (64,), (0, 1), range(4), ("a", "b"))
    ]
    found = {facts: find_crop(*facts) for facts in asked}
    random.seed(3)
    np.random.default_rng(3)
    torch.manual_seed(3)
    assert {facts: find_crop(*facts) for facts in reversed(asked)} == found
    squares = [crop for (size, _, _), crop in found.items() if size == (64, 64)]
    assert len(set(squares)) == len(squares) == 16


def test_these_are_frozen() -> None:
    """Rows in stores are of exactly these parts: a change here is a change of the format."""
    assert [find_crop((640, 480), ViewSpec(0, index, 0.35, 0.5), key_hash("n01440764/7")) for index in range(3)] == [
        Crop(80, 57, 386, 355, True),
        Crop(49, 33, 558, 432, False),
        Crop(107, 25, 520, 401, True),
    ]


Crops: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.int64]]"
KEYS = 4_000
SIZE = (300, 200)


@pytest.fixture(scope="module")
def drawn() -> Crops:
    return np.array([find_crop(SIZE, VIEW, key_hash(str(i))) for i in range(KEYS)])


def test_crops_are_distributed_as_torchvision_s(drawn: Crops) -> None:
    """Kolmogorov-Smirnov, two samples: position, sides, area and aspect ratio, at 1 in 10,000 each."""
    blank = torch.zeros(3, SIZE[1], SIZE[0])
    torch.manual_seed(0)
    theirs = np.array(
        [RandomResizedCrop.get_params(blank, [VIEW.min_crop_area, 1.0], [3 / 4, 4 / 3]) for _ in range(KEYS)]
    )[:, [1, 0, 3, 2]]
    limit = sqrt(-log(1e-4 / 2) / KEYS)
    for ours, reference in zip(_facts(drawn), _facts(theirs), strict=True):
        at = np.concatenate([ours, reference])
        gap = np.searchsorted(ours, at, "right") - np.searchsorted(reference, at, "right")
        assert np.abs(gap).max() / KEYS < limit


def _facts(crops: Crops) -> list["np.ndarray[tuple[int], np.dtype[np.float64]]"]:
    left, top, width, height = crops[:, :4].astype(np.float64).T
    return [np.sort(values) for values in (left, top, width, height, width * height, width / height)]


def test_mirrors_as_often_as_asked_and_by_itself(drawn: Crops) -> None:
    mirrored = drawn[:, 4]
    assert abs(mirrored.mean() - 0.5) < 4 * sqrt(0.25 / KEYS)
    for column in range(4):
        assert abs(np.corrcoef(mirrored, drawn[:, column])[0, 1]) < 4 / sqrt(KEYS)
    for flip in (0.0, 1.0):
        found = {find_crop(SIZE, ViewSpec(0, 0, 0.35, flip), key_hash(str(i))).mirrored for i in range(200)}
        assert found == {bool(flip)}


def test_views_and_seeds_are_independent() -> None:
    """Of neighbouring views, seeds and keys: no two agree more often than chance lets them."""
    base = np.array([find_crop(SIZE, VIEW, key_hash(str(i))) for i in range(1_000)])
    for other in (ViewSpec(0, 1, 0.35, 0.5), ViewSpec(1, 0, 0.35, 0.5)):
        found = np.array([find_crop(SIZE, other, key_hash(str(i))) for i in range(1_000)])
        for column in range(5):
            assert abs(np.corrcoef(base[:, column], found[:, column])[0, 1]) < 4 / sqrt(1_000)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (256, 1)])
def test_the_longest_and_the_smallest_images_have_a_part(size: tuple[int, int]) -> None:
    for index in range(50):
        crop = find_crop(size, ViewSpec(7, index, 0.9, 0.5), 1)
        assert 1 <= crop.width <= size[0]
        assert 1 <= crop.height <= size[1]


def test_an_image_that_no_part_fits_gives_its_centre() -> None:
    """Nine tenths of the area of a long image are longer than 4:3."""
    assert find_crop((800, 100), ViewSpec(0, 0, 0.9, 0.0), 1) == Crop(333, 0, 133, 100, False)
    assert find_crop((100, 800), ViewSpec(0, 0, 0.9, 0.0), 1) == Crop(0, 333, 100, 133, False)
    assert find_crop((100, 100), ViewSpec(0, 0, 1.0, 0.0), 1) == Crop(0, 0, 100, 100, False)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_pixels_are_those_of_the_part_mirrored_or_not(flip: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    view = ViewSpec(0, 5, 0.3, flip)
    crop = find_crop((90, 60), view, key_hash("k"))
    part = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    shown = np.asarray(crop_view(Image.fromarray(pixels), view, "k"))
    assert (shown == (part[:, ::-1] if flip else part)).all()
