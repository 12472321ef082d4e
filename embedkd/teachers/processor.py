"""Image processors of transformers as a teacher's preprocessing: what their file must say, and what they do.

The processor itself is loaded by the adapter and called as transformers calls it; nothing is computed anew here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL.Image import Image, Resampling
from torch import Tensor

from embedkd.errors import TeacherError
from embedkd.records import Preprocess
from embedkd.teachers.folders import read_json

if TYPE_CHECKING:
    from pathlib import Path

PROCESSOR_FILE = "preprocessor_config.json"
_LARGEST_SIDE_PX = 8_192

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ProcessorTransform:
    """An image processor as a transform of one image; pickles without the model."""

    processor: Any

    def __call__(self, image: Image) -> Tensor:
        """From RGB to float32 [3, H, W], by the processor's own public call."""
        pixels = self.processor(image, return_tensors="pt")["pixel_values"][0]
        assert isinstance(pixels, Tensor)
        return pixels


def check_processor_file(folder: "Path") -> None:
    """Make sure that a folder says how its images are prepared: a library's defaults are another model's numbers.

    Raises:
        TeacherError: There is no such file, or it leaves out size, mean or std.
    """
    file = folder / PROCESSOR_FILE
    if not file.is_file():
        raise TeacherError(
            f"'{folder}' has no {PROCESSOR_FILE}, so the size, mean and std of its images are unknown\n"
            "copy it from the model's repository, or write it: "
            "transformers.ViTImageProcessor(size=..., image_mean=..., image_std=...).save_pretrained(folder)"
        )
    document = read_json(file)
    needed = ("size", "image_mean", "image_std") if document.get("do_normalize", True) else ("size",)
    missing = [key for key in needed if not document.get(key)]
    if missing:
        raise TeacherError(f"'{file}' lacks {', '.join(missing)}; add what the model was trained with")


def describe_processor(processor: Any, source: str) -> Preprocess:
    """The facts of an image processor, read from the processor itself.

    Raises:
        TeacherError: Its images would not all have one size, or it does what no `Preprocess` can say.
    """
    try:
        return _facts_of(processor, source)
    except (AttributeError, TypeError, ValueError) as error:
        raise TeacherError(f"{source}: {PROCESSOR_FILE} describes no image processor: {error}") from error


def _facts_of(processor: Any, source: str) -> Preprocess:
    size = processor.size
    resize = (size.height, size.width) if size.height and size.width else size.shortest_edge
    crop = processor.crop_size if processor.do_center_crop else size
    if (
        not processor.do_resize
        or not resize
        or size.longest_edge
        or processor.do_pad
        or not (crop.height and crop.width)
    ):
        raise TeacherError(f"{source}: {PROCESSOR_FILE} must resize to one size, by height and width or a centre crop")
    sides = (*(resize if isinstance(resize, tuple) else (resize,)), crop.height, crop.width)
    if not 1 <= min(sides) <= max(sides) <= _LARGEST_SIDE_PX:
        raise TeacherError(f"{source}: {PROCESSOR_FILE} has sides of {sides} px, expected 1 to {_LARGEST_SIDE_PX}")
    mean, std = _normalisation(processor)
    if min(std) <= 0:
        raise TeacherError(f"{source}: {PROCESSOR_FILE} has an image_std of {std}, expected positive numbers")
    return Preprocess(
        resize_px=resize,
        crop_px=(crop.height, crop.width),
        interpolation=Resampling(processor.resample).name.lower(),
        mean=mean,
        std=std,
        backend=processor.backend,
    )


def _normalisation(processor: Any) -> tuple[Triple, Triple]:
    """Mean and std on pixels scaled to [0, 1], whatever scale the processor itself uses."""
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    (m_red, m_green, m_blue), (s_red, s_green, s_blue) = mean, std
    return (m_red / scale, m_green / scale, m_blue / scale), (s_red / scale, s_green / scale, s_blue / scale)
