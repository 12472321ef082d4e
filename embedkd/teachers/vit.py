"""The ``vit:`` family: vision transformers of transformers, from the Hugging Face hub or a local folder.

The output ``cls`` is the class token after the last layer norm, before any pooler or head (Dosovitskiy et al., 2021,
arXiv:2010.11929). Preprocessing is the model's own image processor, called as transformers calls it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoImageProcessor, ViTConfig, ViTModel
from transformers.utils import logging

from embedkd.errors import TeacherError
from embedkd.records import OutputSpec, TeacherSpec
from embedkd.teachers.folders import read_json
from embedkd.teachers.hub import fetch_folder
from embedkd.teachers.processor import PROCESSOR_FILE, ProcessorTransform, check_processor_file, describe_processor
from embedkd.teachers.runner import Forward, TorchTeacher, choose_device, choose_precision
from embedkd.teachers.weights import (
    describe_shapes,
    find_weight_files,
    read_weights,
    refuse_misfits,
    weights_sha256,
)

if TYPE_CHECKING:
    from embedkd.teachers.base import LoadOptions, ResolvedName

# All that decides the values of `cls`. Nothing else of a config.json is read: some of its other keys name code.
_ARCHITECTURE_KEYS = (
    "hidden_act",
    "hidden_size",
    "image_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
    "qkv_bias",
)
_LARGEST = {
    "hidden_size": 65_536,
    "intermediate_size": 262_144,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 1_024,
}
_LARGEST_SIDE_PX = 8_192
# Parts of other checkpoints around the same encoder: heads, and the mask token of masked image modelling.
_HEADS = ("pooler.", "classifier.", "decoder.", "embeddings.mask_token")
_LIBRARIES = ("torch", "torchvision", "transformers", "pillow")


def load(name: "ResolvedName", options: "LoadOptions") -> TorchTeacher:
    """Load a ViT from its folder, or from the hub where the name has none.

    Raises:
        TeacherError: The hub cannot be reached, the folder is incomplete or unsafe, the weights do not fit its config,
            or the device is not there.
    """
    place = choose_device(options.device)
    folder = Path(name.weights).expanduser() if name.weights else fetch_folder(name.source, name.name)
    config = read_config(folder)
    transform = load_processor(folder)
    preprocess = describe_processor(transform.processor, f"'{folder}'")
    model_px = _pair(config.image_size)
    if preprocess.crop_px != model_px:
        raise TeacherError(f"'{folder}': {PROCESSOR_FILE} gives {preprocess.crop_px} px, the model takes {model_px} px")
    model = load_model(folder, config)
    spec = TeacherSpec(
        name=name.name,
        model=describe_architecture(config),
        weights_sha256=weights_sha256(model.state_dict()),
        outputs=(OutputSpec("cls", config.hidden_size),),
        preprocess=preprocess,
        normalised=False,
        precision=choose_precision(options.precision, place),
        source=name.source,
        # A snapshot's folder is named after its commit; weights of one's own have no revision and no known licence.
        revision=None if name.weights else folder.name,
        libraries=tuple((library, version(library)) for library in _LIBRARIES),
        licence=None if name.weights else "Apache-2.0",
    )
    return TorchTeacher(spec, transform, _forward_of(model.to(place)), place)


def read_config(folder: Path) -> ViTConfig:
    """The architecture that a folder's config.json describes.

    Raises:
        TeacherError: A value is of another type, or so large that no such model exists.
    """
    document = read_json(folder / "config.json")
    try:
        config = ViTConfig(**{key: document[key] for key in _ARCHITECTURE_KEYS if key in document})
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise TeacherError(f"'{folder}/config.json' describes no ViT: {' '.join(str(error).split())}") from error
    sizes = [(key, getattr(config, key), limit) for key, limit in _LARGEST.items()]
    sizes += [
        (key, side, _LARGEST_SIDE_PX) for key in ("image_size", "patch_size") for side in _pair(getattr(config, key))
    ]
    for key, value, limit in sizes:
        if not 1 <= value <= limit:
            raise TeacherError(f"'{folder}/config.json' has {key} {value}, expected 1 to {limit}")
    if config.num_channels != 3:
        raise TeacherError(f"'{folder}/config.json' takes {config.num_channels} channels; images are RGB, expected 3")
    return config


def describe_architecture(config: ViTConfig) -> str:
    """One line that is the same for every folder of the same architecture."""
    facts = {key: getattr(config, key) for key in _ARCHITECTURE_KEYS}
    facts |= {"image_size": _pair(config.image_size), "patch_size": _pair(config.patch_size)}
    return f"transformers ViTModel({', '.join(f'{key}={value}' for key, value in facts.items())})"


def load_model(folder: Path, config: ViTConfig) -> nn.Module:
    """The encoder with the folder's weights in float32, without pooler and heads, in evaluation mode.

    Raises:
        TeacherError: The weights are unsafe, unreadable, or do not fit the config.
    """
    state = read_weights(find_weight_files(folder))
    _check_size(folder, config, state)
    with _quiet():
        loaded = ViTModel.from_pretrained(
            None,
            config=config,
            state_dict=state,
            add_pooling_layer=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # listed below, with the rest
        )
    model, info = cast("tuple[nn.Module, Mapping[str, Any]]", loaded)
    extra = [name for name in info["unexpected_keys"] if not name.removeprefix("vit.").startswith(_HEADS)]
    misfits = [f"{name} is missing" for name in sorted(info["missing_keys"])]
    misfits += [f"{name} is left over" for name in sorted(extra)]
    misfits += [describe_shapes(*misfit) for misfit in sorted(info["mismatched_keys"])]
    refuse_misfits(f"'{folder}'", misfits)
    return model.eval().requires_grad_(False)


def load_processor(folder: Path) -> ProcessorTransform:
    """The folder's own image processor, as AutoImageProcessor gives it.

    Raises:
        TeacherError: The folder has none, or one that leaves something to be guessed.
    """
    check_processor_file(folder)
    from_pretrained = cast("Callable[..., Any]", AutoImageProcessor.from_pretrained)
    try:
        with _quiet():
            return ProcessorTransform(from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, StrictDataclassError) as error:
        problem = " ".join(str(error).split())
        raise TeacherError(f"'{folder / PROCESSOR_FILE}' describes no image processor: {problem}") from error


def _check_size(folder: Path, config: ViTConfig, state: Mapping[str, Tensor]) -> None:
    """Bound what a config can make us allocate by what its files hold."""
    try:
        with torch.device("meta"):
            blank = ViTModel(config, add_pooling_layer=False)
    except (KeyError, ValueError, RuntimeError) as error:
        raise TeacherError(f"'{folder}/config.json' describes no ViT: {' '.join(str(error).split())}") from error
    needed, held = (sum(tensor.numel() for tensor in tensors.values()) for tensors in (blank.state_dict(), state))
    if needed > 2 * held:
        raise TeacherError(f"'{folder}': config.json describes {needed:,} weights, the files hold {held:,}")


def _forward_of(model: nn.Module) -> Forward:
    def forward(pixels: Tensor, _wanted: frozenset[str]) -> Mapping[str, Tensor]:
        return {"cls": model(pixel_values=pixels).last_hidden_state[:, 0]}

    return forward


def _pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and load reports of the library: errors say what matters."""
    library: Any = logging
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
