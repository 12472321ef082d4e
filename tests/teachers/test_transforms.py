from typing import Any

import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from timm.data import create_transform
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from embedkd.errors import TeacherError
from embedkd.records import Preprocess
from embedkd.teachers.transforms import describe_transform
from tests.teachers.clipart import pictures

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NORMALISE = Normalize(MEAN, STD)

DESCRIBED: dict[str, tuple[Any, Preprocess]] = {
    "clip shortest": (
        image_transform_v2(PreprocessCfg(size=(32, 32), mean=MEAN, std=STD), is_train=False),
        Preprocess(32, (32, 32), "bicubic", MEAN, STD),
    ),
    "clip squash": (
        image_transform_v2(PreprocessCfg(size=32, mean=MEAN, std=STD, resize_mode="squash"), is_train=False),
        Preprocess((32, 32), (32, 32), "bicubic", MEAN, STD),
    ),
    "clip longest": (
        image_transform_v2(
            PreprocessCfg(size=32, mean=MEAN, std=STD, resize_mode="longest", interpolation="bilinear", fill_color=7),
            is_train=False,
        ),
        Preprocess(32, (32, 32), "bilinear", MEAN, STD, pad_rgb=(7, 7, 7)),
    ),
    "timm center": (
        create_transform((3, 48, 48), mean=(0.485, 0.456, 0.406), std=STD, crop_pct=0.9, interpolation="bicubic"),
        Preprocess(53, (48, 48), "bicubic", (0.485, 0.456, 0.406), (0.26862955, 0.2613026, 0.2757771)),
    ),
    "timm squash": (
        create_transform((3, 48, 40), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, crop_mode="squash"),
        Preprocess((48, 40), (48, 40), "bilinear", (0.5,) * 3, (0.5,) * 3),
    ),
    "timm border": (
        create_transform((3, 48, 48), mean=(0.0, 0.5, 1.0), std=(0.5,) * 3, crop_pct=0.75, crop_mode="border"),
        Preprocess(64, (48, 48), "bilinear", (0.0, 0.5, 1.0), (0.5,) * 3, pad_rgb=(0, 128, 255)),
    ),
    "torchvision": (
        Compose([Resize(40), CenterCrop((32, 24)), ToTensor(), NORMALISE]),
        Preprocess(40, (32, 24), "bilinear", MEAN, STD),
    ),
}


@pytest.mark.parametrize("kind", DESCRIBED)
def test_the_facts_are_those_of_the_transform(kind: str) -> None:
    transform, facts = DESCRIBED[kind]
    assert describe_transform(transform, "here") == facts


@pytest.mark.parametrize("kind", DESCRIBED)
def test_the_facts_say_what_comes_out(kind: str) -> None:
    """Normalised white is what mean and std make of 1, and the size is the crop's, whatever the image's shape."""
    transform, facts = DESCRIBED[kind]
    for picture in pictures():
        pixels = transform(picture)
        assert tuple(pixels.shape) == (3, *facts.crop_px)
        white = (1 - torch.tensor(facts.mean)) / torch.tensor(facts.std)
        assert (pixels.amax((1, 2)) <= white + 1e-5).all()


@pytest.mark.parametrize("kind", [kind for kind, (_, facts) in DESCRIBED.items() if facts.pad_rgb])
def test_the_rest_of_a_padded_image_has_the_colour_that_is_said(kind: str) -> None:
    transform, facts = DESCRIBED[kind]
    strip = transform(pictures()[0].resize((20, 400)))
    assert facts.pad_rgb is not None
    colour = (torch.tensor(facts.pad_rgb) / 255 - torch.tensor(facts.mean)) / torch.tensor(facts.std)
    torch.testing.assert_close(strip[:, :, 0], colour[:, None].expand(3, strip.shape[1]))


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([Resize(40), ToTensor(), NORMALISE], "keeps the aspect ratio and crops nothing"),
        ([CenterCrop(32), ToTensor(), NORMALISE], "prepares images by CenterCrop > Normalize"),
        ([Resize(40), CenterCrop(32), ToTensor()], "prepares images by Resize > CenterCrop"),
        ([Resize(40), CenterCrop(32), CenterCrop(16), ToTensor(), NORMALISE], "CenterCrop > CenterCrop"),
        ([Resize(9_000), CenterCrop(32), ToTensor(), NORMALISE], "sides of (9000, 32, 32) px, expected 1 to 8192"),
        ([Resize(40), CenterCrop(32), ToTensor(), Normalize((0.5,) * 3, (0.5, 0.0, 0.5))], "expected positive numbers"),
        ([Resize(40), CenterCrop(32), ToTensor(), Normalize((0.5,), (0.5,))], "cannot be described"),
        (
            image_transform_v2(PreprocessCfg(size=(32, 48)), is_train=False).transforms,
            "keeps the aspect ratio for an input of 32 x 48 px; expected a square",
        ),
    ],
)
def test_what_no_preprocess_can_say_is_refused(steps: list[Any], says: str) -> None:
    with pytest.raises(TeacherError) as caught:
        describe_transform(Compose(steps), "here")
    assert says in str(caught.value)
