import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from embedkd.config import AUGMENTATIONS, AugmentConfig, load_config
from embedkd.errors import ConfigError, UnknownNameError
from embedkd.students import IMAGENET_MEAN, IMAGENET_STD
from embedkd.training.augment import Augment, FixedView

PX = 16


def picture(width: int = 24, height: int = 24) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def augment(crop_padding_px: int = 0, *, squash: bool = False, **settings: Any) -> Augment:
    made = AugmentConfig(crop_padding_px=crop_padding_px, **{"flip": 0.0, **settings})
    return Augment(made, image_px=PX, squash=squash)


CHANGES: dict[str, Any] = {"rand_augment": 2, "colour_jitter": 0.4, "hue_jitter": 0.1, "grey": 0.2, "erase": 0.5}
EVERYTHING = augment(crop_padding_px=2, min_crop_area=0.5, flip=0.5, **CHANGES)


@pytest.mark.parametrize("size", [(24, 24), (40, 17), (7, 30), (16, 16), (1, 1)])
@pytest.mark.parametrize("view", [EVERYTHING, augment(), augment(3), FixedView(image_px=PX)])
def test_every_image_becomes_float32_of_the_asked_size(
    view: Callable[[Image.Image, int], torch.Tensor], size: tuple[int, int]
) -> None:
    pixels = view(picture(*size), 1)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.float32, (3, PX, PX))


def test_a_view_is_a_function_of_image_and_seed() -> None:
    image = picture()
    first = [EVERYTHING(image, seed) for seed in range(8)]
    torch.rand(5)
    again = [pickle.loads(pickle.dumps(EVERYTHING))(image, seed) for seed in reversed(range(8))]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert len({view.numpy().tobytes() for view in first}) == len(first), "seeds differ"


def states() -> tuple[object, str]:
    """Of the generators that torchvision leaves alone and timm does not."""
    return random.getstate(), str(np.random.get_state())  # noqa: NPY002


def test_nothing_is_drawn_from_the_callers_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    others = states()
    for seed in (*range(20), 2**63 - 1):
        EVERYTHING(picture(), seed)
    assert torch.equal(torch.rand(4), expected)
    assert states() == others, "nor from any other"


def test_the_generator_is_put_back_after_an_error() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with pytest.raises(AttributeError):
        EVERYTHING("no image", 0)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)


def test_without_chance_it_is_the_fixed_view() -> None:
    image = picture(40, 20)
    fixed = FixedView(image_px=PX)(image, 0)
    assert all(torch.equal(augment()(image, seed), fixed) for seed in range(4))


def test_a_certain_flip_mirrors() -> None:
    image = picture()
    assert torch.equal(augment(flip=1.0)(image, 0), FixedView(image_px=PX)(image, 0).flip(2))


def test_half_of_the_flips_mirror() -> None:
    image, view = picture(), augment(flip=0.5)
    fixed = FixedView(image_px=PX)(image, 0)
    kept = sum(torch.equal(view(image, seed), fixed) for seed in range(400))
    assert 150 < kept < 250  # 5 standard deviations


def test_a_padded_crop_is_a_shift_that_repeats_the_border() -> None:
    image, pad = picture(PX, PX), 2
    padded = torch.nn.functional.pad(FixedView(image_px=PX)(image, 0)[None], (pad,) * 4, mode="replicate")[0]
    windows = {
        padded[:, y : y + PX, x : x + PX].contiguous().numpy().tobytes()
        for y in range(2 * pad + 1)
        for x in range(2 * pad + 1)
    }
    seen = {augment(crop_padding_px=pad)(image, seed).numpy().tobytes() for seed in range(300)}
    assert seen == windows, "every shift occurs, and nothing else"


def test_pixels_are_normalised_by_channel() -> None:
    white = Image.new("RGB", (PX, PX), "white")
    expected = (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(FixedView(image_px=PX)(white, 0)[:, 3, 5], expected)
    plain = FixedView(image_px=PX, mean=(0.0, 0.0, 0.0), std=(0.5, 1.0, 2.0))(white, 0)
    torch.testing.assert_close(plain[:, 0, 0], torch.tensor([2.0, 1.0, 0.5]))


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (24, 24)])
def test_a_squashed_view_is_the_whole_image(size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = FixedView(image_px=PX)(F.resize(image, [PX, PX], F.InterpolationMode.BICUBIC), 0)
    assert torch.equal(augment(squash=True)(image, 0), expected)
    assert torch.equal(augment(squash=True, flip=1.0)(image, 0), expected.flip(2))


def halves(image: torch.Tensor, border: int = 2) -> bool:
    """Whether both halves of a view are still of one colour each, so many pixels at their borders aside."""
    inside = slice(border, PX - border), slice(border, PX // 2 - border), slice(PX // 2 + border, PX - border)
    sides = image[:, inside[0], inside[1]], image[:, inside[0], inside[2]]
    return all(bool((side - side[:, :1, :1]).abs().max() < 1e-4) for side in sides)


def two_colours() -> Image.Image:
    pixels = np.zeros((PX, PX, 3), dtype=np.uint8)
    pixels[:, : PX // 2], pixels[:, PX // 2 :] = (200, 90, 40), (30, 160, 220)
    return Image.fromarray(pixels)


SEEDS = range(80)
STILL: dict[str, Any] = {
    "rand_augment": 3,
    "rand_magnitude": 15,
    "rand_moves": False,
    "colour_jitter": 0.5,
    "hue_jitter": 0.2,
    "grey": 0.1,
}


def test_colours_change_without_moving_a_pixel() -> None:
    image, view = two_colours(), augment(**STILL)
    views = [view(image, seed) for seed in SEEDS]
    assert all(map(halves, views))
    assert len({found.numpy().tobytes() for found in views}) > 0.9 * len(views)


def test_operations_that_move_pixels_fill_with_the_mean_colour() -> None:
    image, view = two_colours(), augment(rand_augment=1, rand_magnitude=20)
    views = [view(image, seed) for seed in SEEDS]
    moved = [found for found in views if not halves(found, border=0)]
    assert len(moved) > len(views) / 4, "5 of 14 operations move pixels, sharpness blurs the middle"
    filled = [found for found in moved if bool((found.abs().amax(0) < 0.02).any())]
    assert len(filled) > len(moved) / 2
    still = augment(rand_augment=1, rand_magnitude=20, rand_moves=False)
    assert not any(bool((still(image, seed).abs().amax(0) < 0.02).any()) for seed in SEEDS)


def test_a_rectangle_becomes_the_mean_colour() -> None:
    image = Image.new("RGB", (PX, PX), "white")
    plain, view = FixedView(image_px=PX)(image), augment(erase=0.5)
    erased = [hole for seed in SEEDS if bool((hole := view(image, seed) != plain).any())]
    assert 25 < len(erased) < 55
    for hole in erased:
        rows, columns = hole[0].any(1), hole[0].any(0)
        assert torch.equal(hole, (rows[:, None] & columns).expand(3, PX, PX)), "a rectangle, of all channels"
        assert 0.01 < float(hole[0].float().mean()) < 0.36
    seen = [view(image, seed) for seed in SEEDS]
    assert {round(float(value), 4) for found in seen for value in found[found != plain]} == {0.0}


def test_grey_images_have_no_colours() -> None:
    view = Augment(AugmentConfig(flip=0.0, grey=1.0), image_px=PX, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    red, green, blue = view(picture(), 0)
    assert torch.equal(red, green)
    assert torch.equal(green, blue)


@pytest.mark.parametrize("size", [(24, 24), (40, 17), (17, 40)])
def test_the_part_of_a_crop_is_what_the_view_shows(size: tuple[int, int]) -> None:
    image, view = picture(*size), augment(min_crop_area=0.3, flip=0.5, **CHANGES)
    still = augment(min_crop_area=0.3, flip=0.5)
    for seed in range(20):
        part, moved = view.part(image, seed)
        assert moved
        squashed = F.resize(part, [PX, PX], F.InterpolationMode.BICUBIC)
        assert float((FixedView(image_px=PX)(squashed) - still(image, seed)).abs().max()) < 0.05


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 128)])
def test_the_part_of_a_padded_crop_repeats_the_border_too(size: tuple[int, int]) -> None:
    across, down = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    image = Image.fromarray(np.stack([across, down, across + down], axis=2).astype(np.uint8))
    view = augment(3, flip=0.5)
    for seed in range(20):
        part, moved = view.part(image, seed)
        assert moved
        assert part.size == (64, 64)
        small = FixedView(image_px=PX)(part)
        assert float((small - view(image, seed)).abs().mean()) < 0.02, "a smooth picture: resizing changes little"


def test_the_part_of_a_whole_view_is_the_image() -> None:
    image = picture(30, 20)
    part, moved = augment().part(image, 0)
    assert part is image
    assert not moved
    mirrored, moved = augment(flip=1.0).part(image, 0)
    assert not moved
    assert np.array_equal(np.asarray(mirrored), np.asarray(image)[:, ::-1])


@pytest.mark.parametrize(("preset", "moves"), [("none", False), ("flip", True), ("crop", True), ("strong", True)])
def test_presets_are_named_settings(preset: str, moves: bool) -> None:
    made = load_config(values={"augment.preset": preset}).augment
    assert made == replace(AugmentConfig(), **AUGMENTATIONS[preset])  # type: ignore[arg-type]
    assert made.moves_pixels is moves
    assert Augment(made, image_px=PX)(picture(), 3).shape == (3, PX, PX)


def test_the_strongest_preset_for_targets_a_sample_moves_nothing() -> None:
    made = load_config(sets=["augment.preset=colour", "augment.erase=0"]).augment
    assert not made.moves_pixels
    view = Augment(made, image_px=PX)
    assert all(halves(view(two_colours(), seed)) for seed in SEEDS)


def test_given_settings_win_over_a_preset() -> None:
    made = load_config(sets=["augment.flip=0.25", "augment.preset=strong"]).augment
    assert (made.flip, made.min_crop_area) == (0.25, 0.35)
    with pytest.raises(UnknownNameError, match="unknown augmentation 'stron'; did you mean strong"):
        load_config(sets=["augment.preset=stron"])


@pytest.mark.parametrize(
    "change",
    ["rand_magnitude=31", "rand_augment=-1", "hue_jitter=0.6", "erase=1.5", "mixup=-0.1", "cutmix=inf", "mix=2"],
)
def test_settings_out_of_range_are_named(change: str) -> None:
    with pytest.raises(ConfigError, match=f"augment.{change.partition('=')[0]}: expected"):
        load_config(sets=[f"augment.{change}"])
