"""What known checkpoints of transformers publish beside their weights: config and image processor. Torch-free."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedkd.records import Preprocess

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
BILINEAR, BICUBIC = 2, 3
_INTERPOLATIONS = {BILINEAR: "bilinear", BICUBIC: "bicubic"}

Numbers = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Published:
    """The two documents that decide a model's architecture and preprocessing.

    Attributes:
        config: What its config.json says.
        processor: What its preprocessor_config.json says, sizes written out as height and width.
    """

    config: Mapping[str, Any]
    processor: Mapping[str, Any]

    @property
    def preprocess(self) -> Preprocess:
        """The facts of the processor, as `embedkd.teachers.processor.describe_processor` reads them."""
        size, crop = self.processor["size"], self.processor.get("crop_size", self.processor["size"])
        square = "height" in size
        return Preprocess(
            resize_px=(size["height"], size["width"]) if square else size["shortest_edge"],
            crop_px=(crop["height"], crop["width"]),
            interpolation=_INTERPOLATIONS[self.processor["resample"]],
            mean=self.processor["image_mean"],
            std=self.processor["image_std"],
            backend="torchvision",
        )

    def write(self, folder: Path) -> None:
        """Write both documents under the names that transformers reads."""
        for file, document in ((CONFIG_FILE, self.config), (PROCESSOR_FILE, self.processor)):
            (folder / file).write_text(json.dumps(dict(document)), encoding="utf-8")


def processor_document(
    kind: str, numbers: Numbers, resample: int, size: Mapping[str, int], crop_px: int | None = None
) -> dict[str, Any]:
    """A preprocessor_config.json.

    Args:
        kind: Class of transformers ("ViTImageProcessor").
        numbers: Mean and std, on pixels scaled to [0, 1].
        resample: Pillow's number of the interpolation.
        size: What is resized to: height and width, or the shortest edge.
        crop_px: Side of the centre crop; None where nothing is cropped.
    """
    mean, std = numbers
    document = {"image_processor_type": kind, "image_mean": mean, "image_std": std, "resample": resample}
    document |= {"size": dict(size), "do_resize": True, "do_rescale": True, "do_normalize": True}
    if crop_px is not None:
        document |= {"do_center_crop": True, "crop_size": {"height": crop_px, "width": crop_px}}
    return document


def square(side_px: int) -> dict[str, int]:
    """The size of a square as processors write it."""
    return {"height": side_px, "width": side_px}
