import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from embedkd.students import IMAGENET_MEAN, IMAGENET_STD
from embedkd.training.augment import Augment, FixedView

PX = 16


def picture(width: int = 24, height: int = 24) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def augment(crop_padding_px: int = 0, min_crop_area: float = 1.0, flip: float = 0.0) -> Augment:
    return Augment(image_px=PX, crop_padding_px=crop_padding_px, min_crop_area=min_crop_area, flip=flip)


EVERYTHING = augment(crop_padding_px=2, min_crop_area=0.5, flip=0.5)


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


def test_nothing_is_drawn_from_the_callers_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    EVERYTHING(picture(), 2**63 - 1)
    assert torch.equal(torch.rand(4), expected)


def test_the_generator_is_put_back_after_an_error() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with pytest.raises(TypeError):
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
