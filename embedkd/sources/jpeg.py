"""JPEG bytes to pixels by libjpeg-turbo directly: the very pixels that Pillow gives, sooner.

Pillow decodes by the same library a strip at a time; here it writes the whole image at once. Only what both are known
to agree on is decoded (grey and three colours, no warnings of the decoder); everything else is left to Pillow, and so
is the verdict on damaged bytes. `benchmarks/decoding.py` measures the difference, the tests compare the pixels.
"""

from typing import TYPE_CHECKING

import simplejpeg
from PIL import Image

if TYPE_CHECKING:
    from PIL.JpegImagePlugin import JpegImageFile

# Pillow's mode of a JPEG to the decoder's name of it. CMYK is converted in another way: one level off here and there.
_COLOURS = {"L": "GRAY", "RGB": "RGB"}


def decode_jpeg(header: "JpegImageFile", data: bytes) -> Image.Image | None:
    """The pixels of a JPEG, mode L or RGB; None where Pillow has to decode it.

    Args:
        header: What Pillow read of the file, without having decoded it; its size was found acceptable.
        data: The whole file.
    """
    colours = _COLOURS.get(header.mode)
    if colours is None:
        return None
    try:
        # Exact DCT and smooth upsampling, as Pillow; a warning of the decoder is an error here, and Pillow decides.
        pixels = simplejpeg.decode_jpeg(data, colours, fastdct=False, fastupsample=False, strict=True)
    except (ValueError, RuntimeError, MemoryError):
        return None
    if (pixels.shape[1], pixels.shape[0]) != header.size:
        return None
    return Image.fromarray(pixels[:, :, 0] if header.mode == "L" else pixels)
