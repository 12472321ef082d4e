"""Strips: few pixels, but resizing their shorter side would blow them up to any size."""

import io

import pytest
from PIL import Image

from embedkd.errors import ImageError
from embedkd.sources.images import MAX_ASPECT, decode_image


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(("width", "height"), [(1, MAX_ASPECT + 1), (MAX_ASPECT + 1, 1)])
def test_a_strip_is_refused_before_anybody_resizes_it(width: int, height: int) -> None:
    with pytest.raises(ImageError, match="256 : 1"):
        decode_image(png(width, height))


def test_the_limit_itself_is_allowed() -> None:
    assert decode_image(png(1, MAX_ASPECT)).size == (1, MAX_ASPECT)
