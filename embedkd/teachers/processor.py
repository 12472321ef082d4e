"""Image processors of transformers as a teacher's preprocessing: what their file must say, and what they do.

The processor itself is the folder's own, as AutoImageProcessor gives it, and is called as transformers calls it;
nothing is computed anew here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor

from embedkd.errors import TeacherError
from embedkd.records import Preprocess
from embedkd.teachers.folders import read_json

PROCESSOR_FILE = "preprocessor_config.json"
# What transformers 5 writes for an image processor and a tokenizer together; it takes this one where both are there.
_JOINT_FILE = "processor_config.json"
_LARGEST_SIDE_PX = 8_192
# From this side on, ConvNeXT's processor resizes to a square and crops nothing.
_CONVNEXT_UNCROPPED_PX = 384

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ProcessorTransform:
    """An image processor as a transform of one image; pickles without the model."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        """From RGB to float32 [3, H, W], by the processor's own public call."""
        pixels = self.processor(image, return_tensors="pt")["pixel_values"][0]
        assert isinstance(pixels, Tensor)
        return pixels


def load_preprocess(folder: Path, *, trusted: bool = False) -> tuple[ProcessorTransform, Preprocess]:
    """The folder's own image processor and the facts of it, which it was seen to follow.

    Args:
        folder: As transformers saves it.
        trusted: Whether a processor's own code may run.

    Raises:
        TeacherError: See `load_processor`, `describe_processor` and `check_transform`.
    """
    transform = load_processor(folder, trusted=trusted)
    facts = describe_processor(transform.processor, f"'{folder}'")
    check_transform(transform, facts, f"'{folder}'")
    return transform, facts


def load_processor(folder: Path, *, trusted: bool = False) -> ProcessorTransform:
    """The folder's own image processor, with the backend that AutoImageProcessor chooses.

    Args:
        folder: As transformers saves it.
        trusted: Whether a processor's own code may run.

    Raises:
        TeacherError: The folder has none, or one that leaves something to be guessed.
    """
    # Imported here, since processors are described without the library too.
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoImageProcessor

    from embedkd.teachers.transformers_folder import quiet

    file = check_processor_file(folder)
    from_pretrained = cast("Callable[..., Any]", AutoImageProcessor.from_pretrained)
    try:
        with quiet():
            return ProcessorTransform(from_pretrained(folder, local_files_only=True, trust_remote_code=trusted))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, StrictDataclassError) as error:
        problem = " ".join(str(error).split())
        raise TeacherError(f"'{file}' describes no image processor: {problem}") from error


def check_processor_file(folder: Path) -> Path:
    """Make sure that a folder says how its images are prepared: a library's defaults are another model's numbers.

    Returns:
        The file that says it.

    Raises:
        TeacherError: There is no such file, or it leaves out size, mean or std.
    """
    found = _processor_document(folder)
    if found is None:
        raise TeacherError(
            f"'{folder}' has no {PROCESSOR_FILE}, so the size, mean and std of its images are unknown\n"
            "copy it from the model's repository, or write it: "
            "transformers.ViTImageProcessor(size=..., image_mean=..., image_std=...).save_pretrained(folder)"
        )
    file, document = found
    needed = ("size", "image_mean", "image_std") if document.get("do_normalize", True) else ("size",)
    missing = [key for key in needed if not document.get(key)]
    if missing:
        raise TeacherError(f"'{file}' lacks {', '.join(missing)}; add what the model was trained with")
    return file


def describe_processor(processor: Any, source: str) -> Preprocess:
    """The facts of an image processor, read from the processor itself.

    Raises:
        TeacherError: Its images would not all have one size, or it does what no `Preprocess` can say.
    """
    try:
        return _facts_of(processor, source)
    except (AttributeError, TypeError, ValueError) as error:
        raise TeacherError(f"{source}: {PROCESSOR_FILE} describes no image processor: {error}") from error


def check_transform(transform: ProcessorTransform, facts: Preprocess, source: str) -> None:
    """Make sure that a processor does what its facts say: two images of one colour and odd sides tell.

    Raises:
        TeacherError: Its pixels have another shape or other numbers, or it cannot be called.
    """
    for level in (0, 255):
        try:
            pixels = transform(Image.new("RGB", (61, 47), (level,) * 3))
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
            raise TeacherError(f"{source}: its image processor fails: {' '.join(str(error).split())}") from error
        expected = (level / 255 - torch.tensor(facts.mean)) / torch.tensor(facts.std)
        same_shape = pixels.shape == (3, *facts.crop_px)
        if not same_shape or not torch.allclose(pixels, expected[:, None, None].expand_as(pixels), atol=1e-4):
            raise TeacherError(
                f"{source}: its image processor does more than resize, crop and normalise, which no record of its "
                "preprocessing can say; expected one image of one size"
            )


def check_side(facts: Preprocess, side: int | Sequence[int], source: str) -> None:
    """Make sure that a processor gives what a model of one input size takes.

    Args:
        facts: Of the processor.
        side: What the model takes: one side of a square, or height and width.
        source: For errors.

    Raises:
        TeacherError: The sizes differ.
    """
    model_px = (side, side) if isinstance(side, int) else tuple(side)
    if facts.crop_px != model_px:
        raise TeacherError(f"{source}: {PROCESSOR_FILE} gives {facts.crop_px} px, the model takes {model_px} px")


def _processor_document(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    joint, alone = folder / _JOINT_FILE, folder / PROCESSOR_FILE
    if joint.is_file():
        inner = read_json(joint).get("image_processor")
        if isinstance(inner, dict):
            return joint, inner
    return (alone, read_json(alone)) if alone.is_file() else None


def _facts_of(processor: Any, source: str) -> Preprocess:
    resize, crop = _sizes_of(processor)
    if not processor.do_resize or not resize or not crop or processor.do_pad:
        raise TeacherError(f"{source}: {PROCESSOR_FILE} must resize to one size, by height and width or a centre crop")
    sides = (*(resize if isinstance(resize, tuple) else (resize,)), *crop)
    if not 1 <= min(sides) <= max(sides) <= _LARGEST_SIDE_PX:
        raise TeacherError(f"{source}: {PROCESSOR_FILE} has sides of {sides} px, expected 1 to {_LARGEST_SIDE_PX}")
    mean, std = _normalisation(processor)
    if min(std) <= 0:
        raise TeacherError(f"{source}: {PROCESSOR_FILE} has an image_std of {std}, expected positive numbers")
    return Preprocess(
        resize_px=resize,
        crop_px=crop,
        interpolation=Resampling(processor.resample).name.lower(),
        mean=mean,
        std=std,
        backend=processor.backend,
    )


def _sizes_of(processor: Any) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """What is resized to (the shorter side, or both), and what is cropped; None where it depends on the image."""
    size = processor.size
    if size.longest_edge:
        return None, None
    edge, share = size.shortest_edge, getattr(processor, "crop_pct", None)
    if edge and share:  # ConvNeXT and its like
        resize = int(edge / share) if edge < _CONVNEXT_UNCROPPED_PX else (edge, edge)
        return resize, (edge, edge)
    resize = (size.height, size.width) if size.height and size.width else edge
    crop = processor.crop_size if processor.do_center_crop else size
    return resize, (crop.height, crop.width) if crop.height and crop.width else None


def _normalisation(processor: Any) -> tuple[Triple, Triple]:
    """Mean and std on pixels scaled to [0, 1], whatever scale the processor itself uses."""
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    (m_red, m_green, m_blue), (s_red, s_green, s_blue) = mean, std
    return (m_red / scale, m_green / scale, m_blue / scale), (s_red / scale, s_green / scale, s_blue / scale)
