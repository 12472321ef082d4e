"""The fast way to a JPEG's pixels against Pillow's, bit by bit, on whole and on damaged files."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from embedkd.errors import ImageError
from embedkd.sources import images
from embedkd.sources.images import decode_image
from embedkd.sources.jpeg import decode_jpeg


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Edges and noise: where decoders could round differently."""
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 256, (height, width, 3), np.uint8)
    array[: height // 2] = np.linspace(0, 255, width).astype(np.uint8)[None, :, None]
    return Image.fromarray(array)


def saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(data: bytes) -> Image.Image | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "decode_jpeg", lambda header, data: None)
        return by_us(data)


def by_us(data: bytes) -> Image.Image | str:
    try:
        return decode_image(data)
    except ImageError as error:
        return str(error)


def is_fast(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as header:
        assert isinstance(header, JpegImageFile)
        return decode_jpeg(header, data) is not None


KINDS: list[dict[str, Any]] = [
    *({"quality": quality, "subsampling": s} for quality in (20, 75, 95, 100) for s in (0, 1, 2)),
    {"progressive": True, "quality": 80},
    {"optimize": True},
    {"keep_rgb": True, "quality": 90},
    {"restart_marker_rows": 1},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("size", [(64, 64), (37, 91), (500, 3), (1, 1), (8, 7), (17, 16)], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_pillows(size: tuple[int, int], options: dict[str, Any], mode: str) -> None:
    if mode == "L":
        options = {key: value for key, value in options.items() if key not in {"subsampling", "keep_rgb"}}
    data = saved(picture(*size).convert(mode), **options)
    assert is_fast(data)
    ours, theirs = by_us(data), by_pillow(data)
    assert isinstance(ours, Image.Image)
    assert isinstance(theirs, Image.Image)
    assert ours.mode == theirs.mode == "RGB"
    assert ours.tobytes() == theirs.tobytes()


def test_orientation_is_applied_as_before() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(picture(30, 20), exif=exif)
    ours, theirs = by_us(data), by_pillow(data)
    assert isinstance(ours, Image.Image)
    assert isinstance(theirs, Image.Image)
    assert ours.size == (20, 30)
    assert ours.tobytes() == theirs.tobytes()


def test_what_the_two_do_differently_is_left_to_pillow() -> None:
    data = saved(picture(40, 40).convert("CMYK"))
    assert not is_fast(data)
    assert isinstance(by_us(data), Image.Image)


BASE = saved(picture(24, 24), quality=85)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(BASE) - 1), st.integers(1, 255), st.integers(0, len(BASE)), st.booleans())
def test_damaged_files_end_as_pillow_says(at: int, flip: int, cut: int, cuts: bool) -> None:
    """Pixels where Pillow gives pixels, the same; an error where Pillow gives an error."""
    damaged = BASE[:at] + bytes([BASE[at] ^ flip]) + BASE[at + 1 :]
    damaged = damaged[:cut] if cuts else damaged
    ours, theirs = by_us(damaged), by_pillow(damaged)
    if isinstance(theirs, Image.Image):
        assert isinstance(ours, Image.Image), ours
        assert (ours.size, ours.tobytes()) == (theirs.size, theirs.tobytes())
    else:
        assert ours == theirs
