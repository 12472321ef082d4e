"""Image bytes to RGB pixels, safely: the one place where images are decoded.

Bytes come from strangers. Only the readers listed here are tried, chosen by the first bytes and never by a name; the
size in the header is checked before pixels are allocated; whatever a reader raises becomes an `ImageError`. Pillow's
process-wide settings (``MAX_IMAGE_PIXELS``, the table of formats) are neither used nor changed.
"""

import io
import struct
import threading
import warnings
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from embedkd.errors import ImageError
from embedkd.records import DecodePolicy
from embedkd.sources.jpeg import decode_jpeg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.ImageFile import ImageFile

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm", "pbm", "pnm", "gif", "tif", "tiff")
DEFAULT_POLICY = DecodePolicy()
MAX_ASPECT = 256

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUIET = threading.Lock()


class _Jpeg(JpegImageFile):
    """Pillow's reader without its look for a resolution in EXIF, which warns about EXIF blocks that are damaged."""

    def _read_dpi_from_exif(self) -> None:
        return


_READERS: "tuple[tuple[bytes, type[ImageFile]], ...]" = (
    (b"\xff\xd8\xff", _Jpeg),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"BM", BmpImageFile),
    (b"GIF8", GifImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    *((b"P%d" % digit, PpmImageFile) for digit in range(1, 7)),
)


def decode_image(data: bytes, policy: DecodePolicy = DEFAULT_POLICY) -> Image.Image:
    """Decode JPEG, PNG, WebP, BMP, PPM, GIF or TIFF bytes; of several frames the first.

    Transparent pixels are composited on the policy's background. 16-bit samples keep their high byte, as Pillow does
    for 16-bit colour, so grey and colour agree. CMYK and YCCK are converted as Pillow does; colour profiles are not
    applied. The orientation in an EXIF block is applied if the policy says so; a TIFF's own orientation tag is part of
    the format and always applied. Safe to call from several threads.

    Args:
        data: The whole file.
        policy: Background, EXIF and size limit.

    Returns:
        An image of mode RGB without metadata (`info` is empty).

    Raises:
        ImageError: The bytes are no such image, are cut or damaged, hold more pixels than the policy allows, or samples
            without a defined white (floating point, 32-bit). One line.
    """
    reader = _reader(data)
    try:
        with _no_warnings() if _may_warn(reader, data) else nullcontext():
            _check_size(_canvas_size(reader, data), policy)
            image = reader(io.BytesIO(data))
            _check_size(image.size, policy)
            fast = decode_jpeg(image, data) if isinstance(image, _Jpeg) else None
            if fast is None:
                image.load()
        pixels = _oriented(_rgb(image, data, policy) if fast is None else fast.convert("RGB"), image, policy)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise a dozen types on bytes that are damaged in the right place
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot decode {reader.format} of {len(data):,} bytes: {reason[:160]}") from error
    pixels.info = {}  # so that nobody turns it by the same EXIF block again
    return pixels


def _reader(data: bytes) -> "type[ImageFile]":
    if not data:
        raise ImageError("expected an image, got 0 bytes")
    for magic, reader in _READERS:
        if data.startswith(magic):
            return reader
    raise ImageError(f"expected JPEG, PNG, WebP, BMP, PPM, GIF or TIFF, got bytes that begin with {data[:8]!r}")


def _may_warn(reader: "type[ImageFile]", data: bytes) -> bool:
    """Whether Pillow's reader can call `warnings.warn` on such bytes."""
    if reader is PngImageFile:
        return b"acTL" in data
    return reader in {GifImageFile, TiffImageFile}


@contextmanager
def _no_warnings() -> "Iterator[None]":
    """Keep Pillow's warnings about metadata from leaking. The filters belong to the process, hence the lock."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _canvas_size(reader: "type[ImageFile]", data: bytes) -> tuple[int, int]:
    """Width and height in the header, for the formats whose canvas Pillow may allocate on opening; else (0, 0)."""
    try:
        if reader is GifImageFile:
            width, height = struct.unpack_from("<HH", data, 6)
            return width, height
        if reader is WebPImageFile and data[12:16] == b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
            return width, height
        if reader is WebPImageFile and data[12:16] == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if reader is WebPImageFile and data[12:16] == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    except struct.error as error:
        raise ImageError(f"cannot decode {reader.format} of {len(data):,} bytes: cut inside its header") from error
    return 0, 0


def _check_size(size: tuple[int, int], policy: DecodePolicy) -> None:
    width, height = size
    if width * height > policy.max_pixels:
        raise ImageError(f"image of {width} x {height} pixels is over the limit of {policy.max_pixels:,} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        # Resizing the shorter side to a model's input would blow such a strip up to any size.
        raise ImageError(f"image of {width} x {height} pixels is over the limit of {MAX_ASPECT} : 1")


def _rgb(image: "ImageFile", data: bytes, policy: DecodePolicy) -> Image.Image:
    pixels: Image.Image = image
    if image.mode.startswith("I"):
        pixels = _eight_bits(image)
    elif image.mode == "F":
        raise ImageError("expected 8- or 16-bit samples, got floating point, which has no defined white")
    elif image.format == "PNG" and "transparency" in image.info:
        _scale_transparency(image, bit_depth=data[24])
    if pixels.has_transparency_data:
        rgba = pixels.convert("RGBA")
        canvas = Image.new("RGB", rgba.size, policy.background)
        canvas.paste(rgba, mask=rgba)
        return canvas
    return pixels if pixels.mode == "RGB" else pixels.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, or of 32 that holds 16, as L; as LA where one grey is transparent."""
    samples = np.asarray(image)
    low, high = int(samples.min()), int(samples.max())
    if low < 0 or high > 0xFFFF:
        raise ImageError(f"expected grey samples from 0 to 65535, got {low} to {high}")
    grey = Image.fromarray((samples >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    alpha = Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _scale_transparency(image: Image.Image, bit_depth: int) -> None:
    """Bring a PNG's transparent colour to 8 bits, as its pixels are; Pillow leaves it in the file's depth."""
    transparent = image.info["transparency"]
    if image.mode == "L" and bit_depth < 8:
        image.info["transparency"] = transparent * 255 // ((1 << bit_depth) - 1)
    elif image.mode == "RGB" and bit_depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _oriented(pixels: Image.Image, image: "ImageFile", policy: DecodePolicy) -> Image.Image:
    if not policy.exif or "exif" not in image.info or isinstance(image, TiffImageFile):
        return pixels
    method = _TRANSPOSE.get(_orientation(image.info["exif"]))
    return pixels if method is None else pixels.transpose(method)


def _orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, from 1 to 8; 1 where the block does not say or is damaged.

    Read here and not by Pillow, which warns about damaged blocks and whose treatment of them changed between versions:
    the same bytes have to give the same pixels for a teacher today and a student next year.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, entry + 8)
                return int(value)
    except struct.error:
        return 1
    return 1
