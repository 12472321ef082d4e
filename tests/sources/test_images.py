"""decode_image on real files of every kind it reads, and on files that nobody should decode."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from embedkd.errors import ImageError
from embedkd.records import DecodePolicy
from embedkd.sources.images import DEFAULT_POLICY, IMAGE_SUFFIXES, decode_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("PPM", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
]
LOSSY: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {"quality": 90}),
    ("JPEG", {"quality": 70, "progressive": True, "subsampling": 0}),
    ("WEBP", {"quality": 80}),
]


def picture(width: int = 13, height: int = 9) -> Image.Image:
    """A colour picture without symmetry, smooth enough for lossy codecs."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 / max(1, width - 1), y * 255 / max(1, height - 1), (x + 2 * y) * 5 % 256]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes, policy: DecodePolicy = DEFAULT_POLICY) -> "NDArray[np.uint8]":
    image = decode_image(data, policy)
    assert image.mode == "RGB"
    return np.asarray(image)


def pixels_or_error(data: bytes, policy: DecodePolicy = DEFAULT_POLICY) -> "NDArray[np.uint8] | ImageError":
    """Pixels, or the one error that may come, in one line."""
    try:
        return pixels(data, policy)
    except ImageError as error:
        outcome = error
    assert len(str(outcome).splitlines()) == 1
    return outcome


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], *before: bytes) -> bytes:
    """A PNG from raw rows: depths and chunks that Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + data + chunk(b"IEND", b"")


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """An EXIF block with one other tag before the orientation."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,)))
    other = struct.pack(order + "HHII", 0x0100, 4, 1, 5)
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0" + mark + struct.pack(order + "IH", 8, 2) + other + entry + b"\0\0\0\0"


class TestPlain:
    @pytest.mark.parametrize(("kind", "options"), LOSSLESS)
    def test_lossless_formats_give_the_very_pixels(self, kind: str, options: dict[str, Any]) -> None:
        np.testing.assert_array_equal(pixels(encode(picture(), kind, **options)), np.asarray(picture()))

    @pytest.mark.parametrize(("kind", "options"), LOSSY)
    def test_lossy_formats_give_what_pillow_gives(self, kind: str, options: dict[str, Any]) -> None:
        data = encode(picture(64, 40), kind, **options)
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(pixels(data), np.asarray(image.convert("RGB")))

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 20), st.integers(1, 20), st.randoms(use_true_random=False))
    def test_any_size_comes_back(self, width: int, height: int, random: Any) -> None:
        array = np.frombuffer(random.randbytes(width * height * 3), np.uint8).reshape(height, width, 3)
        np.testing.assert_array_equal(pixels(encode(Image.fromarray(array), "PNG")), array)

    @pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "I;16", "YCbCr", "LAB"])
    def test_every_mode_becomes_rgb(self, mode: str) -> None:
        grey = picture().convert("L")
        source = grey.convert("I").convert(mode) if mode == "I;16" else picture().convert("RGB")
        if mode == "LAB":
            data = encode(Image.merge("LAB", [grey] * 3), "TIFF")
        else:
            data = encode(source.convert(mode), "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG")
        assert pixels(data).shape == (9, 13, 3)

    def test_one_bit_is_black_and_white(self) -> None:
        data = encode(Image.fromarray(np.array([[True, False, True]])), "PNG")
        assert pixels(data)[0, :, 1].tolist() == [255, 0, 255]

    def test_the_result_carries_no_metadata(self) -> None:
        image = decode_image(encode(picture(), "JPEG", exif=exif(6), comment="hello", icc_profile=b"x" * 200))
        assert image.info == {}
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), np.asarray(image))

    def test_suffixes_are_lower_case_and_decodable(self) -> None:
        assert all(suffix == suffix.lower() and not suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
        registered = Image.registered_extensions()
        assert all(f".{suffix}" in registered for suffix in IMAGE_SUFFIXES)


class TestTransparency:
    @settings(max_examples=60, deadline=None)
    @given(st.tuples(*[st.integers(0, 255)] * 4), st.tuples(*[st.integers(0, 255)] * 3))
    def test_alpha_blends_with_the_background(
        self, colour: tuple[int, int, int, int], background: tuple[int, int, int]
    ) -> None:
        data = encode(Image.new("RGBA", (2, 2), colour), "PNG")
        alpha = colour[3] / 255
        expected = [c * alpha + b * (1 - alpha) for c, b in zip(colour[:3], background, strict=True)]
        np.testing.assert_allclose(pixels(data, DecodePolicy(background))[1, 1], expected, atol=1.0)

    def test_grey_with_alpha(self) -> None:
        data = encode(Image.new("LA", (1, 1), (100, 0)), "PNG")
        assert pixels(data, DecodePolicy((1, 2, 3)))[0, 0].tolist() == [1, 2, 3]

    def test_webp_with_alpha(self) -> None:
        data = encode(Image.new("RGBA", (3, 3), (200, 0, 0, 0)), "WEBP", lossless=True, exact=True)
        assert pixels(data)[0, 0].tolist() == [255, 255, 255]

    def test_palette_with_one_transparent_entry(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((1, 0), 1)
        assert pixels(encode(image, "PNG", transparency=1))[0].tolist() == [[10, 20, 30], [255, 255, 255]]
        assert pixels(encode(image, "GIF", transparency=1))[0].tolist() == [[10, 20, 30], [255, 255, 255]]

    def test_palette_with_an_alpha_for_each_entry(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.putpixel((1, 0), 1)
        data = encode(image, "PNG", transparency=bytes([51, 204]))
        assert pixels(data)[0].tolist() == [[204] * 3, [51] * 3]

    @pytest.mark.parametrize(
        ("depth", "row", "transparent", "expected"),
        [
            (1, bytes([0b01000000]), 1, [0, 200]),
            (2, bytes([0b00011011]), 1, [0, 200, 170, 255]),
            (4, bytes([0x1F]), 15, [17, 200]),
            (8, bytes([7, 8]), 8, [7, 200]),
            (16, struct.pack(">3H", 65535, 1000, 1001), 1000, [255, 200, 3]),
        ],
    )
    def test_transparent_grey_of_any_depth(self, depth: int, row: bytes, transparent: int, expected: list[int]) -> None:
        data = png(len(expected), 1, depth, 0, [row], chunk(b"tRNS", struct.pack(">H", transparent)))
        assert pixels(data, DecodePolicy((200, 200, 200)))[0, :, 0].tolist() == expected

    @pytest.mark.parametrize(("depth", "code", "scale"), [(8, "B", 1), (16, "H", 257)])
    def test_transparent_colour(self, depth: int, code: str, scale: int) -> None:
        row = struct.pack(f">6{code}", *(v * scale for v in (9, 8, 7, 1, 2, 3)))
        data = png(2, 1, depth, 2, [row], chunk(b"tRNS", struct.pack(">3H", *(v * scale for v in (1, 2, 3)))))
        assert pixels(data)[0].tolist() == [[9, 8, 7], [255, 255, 255]]


class TestDeepSamples:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(0, 65535), min_size=1, max_size=12))
    def test_grey_equals_colour_and_is_scaled_not_clipped(self, values: list[int]) -> None:
        grey = png(len(values), 1, 16, 0, [struct.pack(f">{len(values)}H", *values)])
        colour = png(len(values), 1, 16, 2, [b"".join(struct.pack(">H", v) * 3 for v in values)])
        np.testing.assert_array_equal(pixels(grey), pixels(colour))
        np.testing.assert_allclose(pixels(grey)[0, :, 0], np.array(values) / 257, atol=1.0)

    def test_eight_bits_widened_to_sixteen_come_back(self) -> None:
        values = np.arange(256, dtype=np.uint16) * 257
        for kind in ("PNG", "TIFF", "PPM"):
            data = encode(Image.fromarray(values[None]), kind)
            assert pixels(data)[0, :, 2].tolist() == list(range(256)), kind

    def test_big_endian_tiff(self) -> None:
        data = encode(Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 65535, 514)), "TIFF")
        assert pixels(data)[0, :, 0].tolist() == [255, 2]

    def test_sixteen_bits_in_thirty_two(self) -> None:
        data = encode(Image.fromarray(np.array([[0, 65535]], np.int32)), "TIFF")
        assert pixels(data)[0, :, 0].tolist() == [0, 255]

    @pytest.mark.parametrize("value", [-1, 65536])
    def test_thirty_two_bits_are_refused(self, value: int) -> None:
        data = encode(Image.fromarray(np.array([[0, value]], np.int32)), "TIFF")
        with pytest.raises(ImageError, match="samples from 0 to 65535, got"):
            decode_image(data)

    def test_floating_point_is_refused(self) -> None:
        with pytest.raises(ImageError, match="no defined white"):
            decode_image(encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))


class TestCmyk:
    @pytest.mark.parametrize(
        ("ink", "rgb"), [((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((255, 0, 0, 0), (0, 255, 255))]
    )
    def test_adobe_jpeg_is_not_inverted(self, ink: tuple[int, int, int, int], rgb: tuple[int, int, int]) -> None:
        data = encode(Image.new("CMYK", (8, 8), ink), "JPEG", quality=100)
        assert b"Adobe" in data
        np.testing.assert_allclose(pixels(data)[4, 4], rgb, atol=2)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
    def test_as_pillow_turns_it(self, kind: str, options: dict[str, Any], orientation: int) -> None:
        data = encode(picture(), kind, exif=exif(orientation), **options)
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(pixels(data), np.asarray(ImageOps.exif_transpose(image)))
            np.testing.assert_array_equal(pixels(data, DecodePolicy(exif=False)), np.asarray(image))

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("kind", [3, 4])
    def test_either_byte_order_and_width(self, order: str, kind: int) -> None:
        assert pixels(encode(picture(), "PNG", exif=exif(6, order, kind))).shape == (13, 9, 3)

    def test_a_tiff_is_turned_by_its_own_tag_once(self) -> None:
        data = encode(picture(), "TIFF", tiffinfo={0x0112: 6})
        np.testing.assert_array_equal(pixels(data), np.asarray(picture().transpose(Image.Transpose.ROTATE_270)))

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=80), st.booleans())
    def test_a_damaged_block_changes_nothing_and_warns_nobody(self, junk: bytes, little: bool) -> None:
        block = b"Exif\0\0" + (b"II*\0" if little else b"MM\0*") + junk
        data = encode(picture(), "JPEG", exif=block, quality=95)
        assert set(decode_image(data).size) == {13, 9}

    @pytest.mark.parametrize(
        "block", [b"Exif\0\0XX*\0", b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x0100, 4, 1, 5)]
    )
    def test_a_block_that_does_not_say_is_none(self, block: bytes) -> None:
        assert decode_image(encode(picture(), "WEBP", exif=block)).size == (13, 9)

    def test_an_orientation_out_of_range_is_none(self) -> None:
        assert decode_image(encode(picture(), "PNG", exif=exif(9))).size == (13, 9)


class TestAnimation:
    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
    def test_the_first_frame_is_taken(self, kind: str) -> None:
        frames = [Image.new("RGB", (5, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (pixels(data) == (255, 0, 0)).all()

    @pytest.mark.parametrize("frames", [(0,), (2, 2)])
    def test_a_broken_animation_header_is_ignored_silently(self, frames: tuple[int, ...]) -> None:
        control = [chunk(b"acTL", struct.pack(">II", n, 0)) for n in frames]
        assert pixels(png(1, 1, 8, 2, [bytes([4, 5, 6])], *control))[0, 0].tolist() == [4, 5, 6]


def forged(kind: str) -> bytes:
    """A small file whose header claims 16,000 x 16,000 pixels or more."""
    side = 16_000
    match kind:
        case "PNG":
            return png(30_000, 30_000, 8, 2, [b"\0\0\0"])
        case "GIF":
            return b"GIF89a" + struct.pack("<HH", side, side) + encode(picture().convert("P"), "GIF")[10:]
        case "BMP":
            data = bytearray(encode(picture(), "BMP"))
            struct.pack_into("<ii", data, 18, side, side)
            return bytes(data)
        case "PPM":
            return b"P6 16000 16000 255\n" + b"\0" * 60
        case "JPEG":
            data = bytearray(encode(picture(), "JPEG"))
            struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
            return bytes(data)
        case "TIFF":
            data = bytearray(encode(picture(), "TIFF"))
            (directory,) = struct.unpack_from("<I", data, 4)
            for entry in range(directory + 2, directory + 26, 12):
                struct.pack_into("<HHII", data, entry, struct.unpack_from("<H", data, entry)[0], 4, 1, side)
            return bytes(data)
        case "WEBP VP8X":
            size = (side - 1).to_bytes(3, "little") * 2
            return b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0" + b"\x02\0\0\0" + size + b"\0" * 8
        case "WEBP VP8L":
            data = bytearray(encode(picture(), "WEBP", lossless=True))
            struct.pack_into("<I", data, 21, side - 1 | side - 1 << 14)
            return bytes(data)
        case _:
            data = bytearray(encode(picture(), "WEBP"))
            struct.pack_into("<HH", data, 26, side, side)
            return bytes(data)


BOMBS = ["PNG", "GIF", "BMP", "PPM", "JPEG", "TIFF", "WEBP VP8X", "WEBP VP8L", "WEBP VP8"]


class TestGigantic:
    @pytest.mark.parametrize("kind", BOMBS)
    def test_a_bomb_is_refused_by_its_header(self, kind: str) -> None:
        with pytest.raises(ImageError, match=r"\d{5} x \d{5} pixels is over the limit of 64,000,000"):
            decode_image(forged(kind))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF"])
    def test_the_limit_is_exact(self, kind: str) -> None:
        data = encode(picture(10, 11), kind)
        assert decode_image(data, DecodePolicy(max_pixels=110)).size == (10, 11)
        with pytest.raises(ImageError, match="10 x 11"):
            decode_image(data, DecodePolicy(max_pixels=109))

    def test_a_frame_larger_than_its_screen_counts(self) -> None:
        data = bytearray(encode(picture(10, 11).convert("P"), "GIF"))
        struct.pack_into("<HH", data, 6, 1, 1)
        with pytest.raises(ImageError, match="10 x 11"):
            decode_image(bytes(data), DecodePolicy(max_pixels=100))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM"])
    def test_pillows_own_limit_is_not_asked(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        assert decode_image(encode(picture(), kind)).size == (13, 9)


SAMPLES = [encode(picture(24, 18), kind, **options) for kind, options in LOSSLESS + LOSSY]
SAMPLES += [encode(picture(24, 18), "GIF"), encode(picture(24, 18).convert("RGBA"), "PNG")]


class TestDamage:
    @pytest.mark.parametrize("data", [b"", b"not an image at all", b"<svg/>", b"\0" * 512, b"RIFF\0\0\0\0WAVEfmt "])
    def test_no_image(self, data: bytes) -> None:
        with pytest.raises(ImageError, match=r"^(expected|cannot decode) .+$"):
            decode_image(data)

    @pytest.mark.parametrize("data", SAMPLES)
    def test_half_a_file(self, data: bytes) -> None:
        with pytest.raises(ImageError):
            decode_image(data[: len(data) // 2])

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(sample=st.sampled_from(SAMPLES), keep=st.floats(0, 1))
    def test_any_prefix_decodes_whole_or_raises_one_line(
        self, sample: bytes, keep: float, capfd: pytest.CaptureFixture[str]
    ) -> None:
        cut = pixels_or_error(sample[: int(keep * len(sample))])
        if not isinstance(cut, ImageError):
            np.testing.assert_array_equal(cut, pixels(sample))
        assert capfd.readouterr().err == ""

    @settings(max_examples=300, deadline=None)
    @given(sample=st.sampled_from(SAMPLES), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=6))
    def test_flipped_bytes_give_an_image_or_an_image_error(self, sample: bytes, flips: list[tuple[float, int]]) -> None:
        data = bytearray(sample)
        for place, mask in flips:
            data[int(place * (len(data) - 1))] ^= mask
        pixels_or_error(bytes(data), DecodePolicy(max_pixels=1_000_000))

    def test_running_out_of_memory_is_not_the_images_fault(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def exhausted(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", exhausted)
        with pytest.raises(MemoryError):
            decode_image(encode(picture(), "PNG"))


class TestProcessState:
    def test_nothing_of_the_process_is_changed(self) -> None:
        before = (Image.MAX_IMAGE_PIXELS, dict(Image.OPEN), list(warnings.filters))
        for data in SAMPLES:
            decode_image(data)
        assert (Image.MAX_IMAGE_PIXELS, dict(Image.OPEN), list(warnings.filters)) == before

    def test_many_threads_decode_the_same_pixels(self) -> None:
        expected = [pixels(data).tobytes() for data in SAMPLES]
        filters = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda data: pixels(data).tobytes(), SAMPLES * 20))
        assert found == expected * 20
        assert list(warnings.filters) == filters
