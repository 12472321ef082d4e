"""What decodes JPEGs fastest, and whether it gives Pillow's pixels, which a store's decode policy promises.

    python -m benchmarks.decoding [--images 48] [--rounds 5] [--json FILE]

Pictures of the embedded clip-art, enlarged, are saved as JPEGs of several sizes and kinds. Every decoder that is
installed reads the same bytes in turn, on one thread: Pillow as `embedkd.sources.images.decode_image` uses it,
torchvision's ``decode_jpeg``, and simplejpeg (``pip install simplejpeg``; it brings libjpeg-turbo). "equal" counts the
images whose RGB pixels are Pillow's, bit for bit; "off by" is the greatest difference of a level. "x whole" compares
decoding and the packaged teacher's preprocessing together, which is what a precompute does with an image.
"""

import argparse
import importlib.util
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import finish, interleaved, paired, summary
from embedkd.sources.fields import image_suffix
from embedkd.sources.images import decode_image
from embedkd.sources.reader import ShardStream
from embedkd.sources.roots import ShardSource, open_root
from embedkd.sources.shards import list_data
from embedkd.teachers import load_teacher

Decode = Callable[[bytes], NDArray[np.uint8]]
SIZES = {"256": (256, 256), "500x375": (500, 375), "1024": (1024, 1024)}


@dataclass(frozen=True)
class Kind:
    """How a JPEG is written: Pillow's mode, chroma subsampling (0: 4:4:4, 2: 4:2:0), and whether in several scans."""

    mode: str
    subsampling: int = 0
    progressive: bool = False


KINDS = {
    "4:2:0": Kind("RGB", 2),
    "4:4:4": Kind("RGB", 0),
    "progressive": Kind("RGB", 2, progressive=True),
    "grey": Kind("L"),
    "CMYK": Kind("CMYK"),
}


def pillow(data: bytes) -> NDArray[np.uint8]:
    """As a precompute decodes."""
    return np.asarray(decode_image(data))


def torchvision(data: bytes) -> NDArray[np.uint8]:
    """As [H, W, 3]."""
    from torchvision.io import ImageReadMode, decode_jpeg

    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels: NDArray[np.uint8] = decode_jpeg(raw, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
    return pixels


def simplejpeg(data: bytes) -> NDArray[np.uint8]:
    """As [H, W, 3]; CMYK is refused, as libjpeg-turbo converts it to no RGB."""
    pixels: NDArray[np.uint8] = importlib.import_module("simplejpeg").decode_jpeg(data, "RGB")
    return pixels


def decoders() -> dict[str, Decode]:
    """Those that are installed."""
    found: dict[str, Decode] = {"pillow": pillow, "torchvision": torchvision}
    if importlib.util.find_spec("simplejpeg") is not None:
        found["simplejpeg"] = simplejpeg
    return found


def pictures(count: int) -> list[Image.Image]:
    """So many of the embedded pictures."""
    listing = list_data("data:clipart")
    root = open_root(listing.root)
    found: list[Image.Image] = []
    for name in listing.names:
        with ShardStream(ShardSource(root, name)) as stream:
            for sample in stream:
                suffix = image_suffix(sample.fields, sample.key)
                if suffix is not None:
                    found.append(decode_image(sample.fields[suffix]))
                if len(found) == count:
                    return found
    return found


def as_jpeg(picture: Image.Image, size: tuple[int, int], kind: Kind) -> bytes:
    """A picture of that size and kind."""
    file = io.BytesIO()
    big = picture.resize(size, Image.Resampling.BICUBIC).convert(kind.mode)
    big.save(file, "JPEG", quality=90, subsampling=kind.subsampling, progressive=kind.progressive)
    return file.getvalue()


def compare(decode: Decode, files: list[bytes]) -> tuple[int, int] | None:
    """Images that are equal to Pillow's, and the greatest difference; None where the decoder refuses one."""
    equal, most = 0, 0
    for data in files:
        try:
            ours = decode(data).astype(np.int16)
        except (RuntimeError, ValueError):
            return None
        difference = int(np.abs(ours - pillow(data)).max())
        equal += difference == 0
        most = max(most, difference)
    return equal, most


def seconds(decode: Decode, files: list[bytes]) -> float:
    """Seconds an image."""
    started = time.perf_counter()
    for data in files:
        decode(data)
    return (time.perf_counter() - started) / len(files)


def prepare(decode: Decode, preprocess: Callable[[Image.Image], torch.Tensor], data: bytes) -> NDArray[np.uint8]:
    """Decode and preprocess; gives the pixels in between."""
    pixels = decode(data)
    preprocess(Image.fromarray(pixels))
    return pixels


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources, rows = pictures(options.images), []
    preprocess = load_teacher("packaged:efficientnet-lite0").preprocess
    print(f"{len(sources)} images, {options.rounds} rounds, one thread; milliseconds an image (median)")
    print(
        f"{'size':>8} {'kind':<12} {'decoder':<12} {'ms':>7} {'x pillow':>9} {'x whole':>8} {'equal':>8} {'off by':>7}"
    )
    for size, pixels in SIZES.items():
        for kind, how in KINDS.items():
            files = [as_jpeg(picture, pixels, how) for picture in sources]
            verdicts = {name: compare(decode, files) for name, decode in decoders().items()}  # a warm-up too
            able = {name: decode for name, decode in decoders().items() if verdicts[name] is not None}
            alone = {name: partial(seconds, decode, files) for name, decode in able.items()}
            whole = {name: partial(seconds, partial(prepare, d, preprocess), files) for name, d in able.items()}
            found, wholes = interleaved(alone, options.rounds), interleaved(whole, options.rounds)
            for name, verdict in verdicts.items():
                if verdict is None:
                    print(f"{size:>8} {kind:<12} {name:<12} {'refused':>7}")
                    continue
                middle, (equal, most) = summary(found[name])["median"] * 1e3, verdict
                times = [paired(values["pillow"], values[name]) for values in (found, wholes)]
                print(
                    f"{size:>8} {kind:<12} {name:<12} {middle:7.2f} {times[0]:9.2f} {times[1]:8.2f} "
                    f"{equal:>4}/{len(files):<3} {most:>7}"
                )
                facts = {"size": size, "kind": kind, "decoder": name, "equal": equal, "off_by": most}
                rows.append({**facts, "seconds": found[name], "whole_seconds": wholes[name]})
    finish("decoding", {"images": len(sources), "rows": rows}, options.json)


if __name__ == "__main__":
    main()
