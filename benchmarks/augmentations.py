"""What each augmentation costs, and how far it takes an image from what the teacher said of it.

    python -m benchmarks.augmentations [--images 96] [--px 64] [--rounds 5] [--json FILE]

Reads images of the embedded data set. For each setting it prints processor time an image in this process (decoding is
printed by itself; the others are added to the plain resize), and the cosine between the embedded teacher's embedding of
the changed picture and that of the plain one, at the student's resolution: 1 means that a stored row is still what the
teacher would say. A mirrored image is the measure of what "moved" means.
"""

import argparse
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

from benchmarks.measure import finish, interleaved
from embedkd.config import AUGMENTATIONS, AugmentConfig
from embedkd.join import shard_samples
from embedkd.sources.images import decode_image
from embedkd.sources.shards import index_shards, list_data
from embedkd.students import IMAGENET_MEAN, IMAGENET_STD
from embedkd.teachers import load_teacher
from embedkd.training.augment import Augment

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

SETTINGS: dict[str, AugmentConfig] = {
    "resized alone": AugmentConfig(flip=0),
    "mirrored": AugmentConfig(flip=1),
    "crop_padding_px=4": AugmentConfig(flip=0, crop_padding_px=4),
    "min_crop_area=0.35": AugmentConfig(flip=0, min_crop_area=0.35),
    "colour_jitter=0.2": AugmentConfig(flip=0, colour_jitter=0.2),
    "colour_jitter=0.4": AugmentConfig(flip=0, colour_jitter=0.4),
    "hue_jitter=0.1": AugmentConfig(flip=0, hue_jitter=0.1),
    "grey=1": AugmentConfig(flip=0, grey=1),
    "erase=1": AugmentConfig(flip=0, erase=1),
    "rand_augment=2, still": AugmentConfig(flip=0, rand_augment=2, rand_moves=False),
    "rand_augment=2": AugmentConfig(flip=0, rand_augment=2),
    **{f"preset {name}": AugmentConfig(**settings) for name, settings in AUGMENTATIONS.items()},  # type: ignore[arg-type]
}


def main() -> None:
    """Print a row a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = encoded(options.images)
    images = [decode_image(image) for image in data]
    views = {name: Augment(settings, image_px=options.px) for name, settings in SETTINGS.items()}

    def seconds(view: Augment) -> float:
        began = time.process_time()
        for seed, image in enumerate(images):
            view(image, seed)
        return (time.process_time() - began) / len(images)

    def decoding() -> float:
        began = time.process_time()
        for image in data:
            decode_image(image)
        return (time.process_time() - began) / len(data)

    measures: dict[str, Callable[[], float]] = {"decoding": decoding}
    measures |= {name: partial(seconds, view) for name, view in views.items()}
    costs = {name: 1e6 * min(values) for name, values in interleaved(measures, options.rounds).items()}
    said = {name: embeddings(view, images) for name, view in views.items()}
    plain = said["resized alone"]
    cosines = {name: float(F.cosine_similarity(rows, plain).mean()) for name, rows in said.items()}
    print(f"{'setting':24}{'us an image':>12}{'cosine':>9}")
    print(f"{'decoding':24}{costs['decoding']:12.0f}")
    for name, cosine in cosines.items():
        print(f"{name:24}{costs[name]:12.0f}{cosine:9.3f}")
    finish("augmentations", {"us_an_image": costs, "cosine": cosines, "px": options.px}, options.json)


def encoded(count: int) -> list[bytes]:
    """Images of the embedded data set, spread over its first shard."""
    listing = list_data("data:clipart")
    samples = shard_samples(index_shards(listing)[:1], listing.root)
    step = max(1, samples.rows // count)
    places = [(0, number) for number in islice(range(0, samples.rows, step), count)]
    return [joined.image for joined in samples.reader().read_all(places)]


def embeddings(view: Augment, images: "list[Image.Image]") -> torch.Tensor:
    """What the embedded teacher says of one view of each image, [N, D]."""
    teacher = load_teacher("packaged:efficientnet-lite0")
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    pictures = [to_pil_image((view(image, seed) * std + mean).clamp(0, 1)) for seed, image in enumerate(images)]
    pixels = torch.stack([teacher.preprocess(picture) for picture in pictures])
    return torch.cat([teacher.embed(pixels[at : at + 16], ["pooled"])["pooled"] for at in range(0, len(pixels), 16)])


if __name__ == "__main__":
    main()
