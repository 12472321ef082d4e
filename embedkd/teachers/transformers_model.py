"""Models of transformers: which class a folder's weights belong to, and its weights, read or drawn.

A model is built as its own library builds it, so renamed tensors of older releases fit; but nothing that the files do
not hold is ever offered: a head or pooler without weights is left off, any other hole is an error.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING

from embedkd.errors import TeacherError
from embedkd.teachers import drawing
from embedkd.teachers.transformers_folder import quiet
from embedkd.teachers.weights import describe_shapes, read_weights, refuse_misfits

if TYPE_CHECKING:
    from collections.abc import Mapping

ModelClass = type[PreTrainedModel]
_WITH_HEAD = re.compile(r"For[A-Z]|WithProjection")
_MOST_DRAWN = 20_000_000_000


def bare_class(config: PreTrainedConfig) -> ModelClass | None:
    """The library's model without a head for a config; None where it has none."""
    found: Any = MODEL_MAPPING.get(type(config), None)
    return cast("ModelClass | None", found[0] if isinstance(found, (tuple, list)) else found)


def classifier_class(config: PreTrainedConfig, architecture: str) -> ModelClass | None:
    """The library's image classifier of that name for a config; None where the name is no such one."""
    found: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), None) or ()
    classes = cast("tuple[ModelClass, ...]", found if isinstance(found, (tuple, list)) else (found,))
    return next((kind for kind in classes if kind.__name__ == architecture), None)


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model inside one with a head, which the library names for its head; a bare model itself."""
    if not _WITH_HEAD.search(type(model).__name__):
        return model
    inner = getattr(model, model.base_model_prefix, None) or getattr(model, "vision_model", None)
    return inner if isinstance(inner, PreTrainedModel) else model


def load_model(
    folder: Path, config: PreTrainedConfig, kind: ModelClass, files: list[Path]
) -> tuple[PreTrainedModel, bool]:
    """A model with the weights of some files in float32, in evaluation mode.

    Args:
        folder: Where its config lies.
        config: What that says.
        kind: Class of the model.
        files: Its weights.

    Returns:
        The model, without its pooler where the files hold none; and whether its head, if it has one, came with them.

    Raises:
        TeacherError: The weights are unsafe, unreadable, or do not fit the config.
    """
    state = read_weights(files)
    needed, held = count_weights(folder, config, kind), sum(tensor.numel() for tensor in state.values())
    if needed > 2 * held:
        raise TeacherError(f"'{folder}': config.json describes {needed:,} weights, the files hold {held:,}")
    with quiet(), torch.random.fork_rng(devices=[]):  # the library draws what it misses before it says so
        loaded = kind.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # listed below, with the rest
        )
    model, info = cast("tuple[PreTrainedModel, Mapping[str, Any]]", loaded)
    missing = _drop_pooler(model, set(info["missing_keys"]))
    head = _names_of_head(model)
    has_head = not head or not head <= missing
    misfits = [f"{name} is missing" for name in sorted(missing if has_head else missing - head)]
    misfits += [f"{name} is left over" for name in sorted(info["unexpected_keys"]) if _belongs(name, model)]
    misfits += [describe_shapes(*misfit) for misfit in sorted(info["mismatched_keys"])]
    refuse_misfits(f"'{files[0] if files[0].parent != folder else folder}'", misfits)
    return _frozen(model), has_head


def draw_model(folder: Path, config: PreTrainedConfig, kind: ModelClass, seed: int) -> PreTrainedModel:
    """A model with random weights, in evaluation mode; the same ones for the same seed.

    Raises:
        TeacherError: The config describes more weights than any known model has.
    """
    needed = count_weights(folder, config, kind)
    if needed > _MOST_DRAWN:
        raise TeacherError(f"'{folder}': config.json describes {needed:,} weights, expected at most {_MOST_DRAWN:,}")
    with quiet():
        return _frozen(drawing.draw_model(lambda: kind(config), seed).float())


def count_weights(folder: Path, config: PreTrainedConfig, kind: ModelClass) -> int:
    """How many numbers a model of that config would hold, without allocating them.

    Raises:
        TeacherError: The library cannot build such a model.
    """
    try:
        with quiet(), torch.device("meta"):
            blank = kind(config)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise TeacherError(f"'{folder}/config.json' describes no model: {' '.join(str(error).split())}") from error
    return sum(tensor.numel() for tensor in blank.state_dict().values())


def _frozen(model: Any) -> PreTrainedModel:
    """In evaluation mode, without gradients; the library leaves these calls untyped."""
    frozen: PreTrainedModel = model.eval().requires_grad_(False)
    return frozen


def _drop_pooler(model: PreTrainedModel, missing: set[str]) -> set[str]:
    """Leave off a bare model's pooler where the files hold nothing of it; the names that are still missing."""
    bare: Any = model
    pooler = getattr(bare, "pooler", None)
    names = {f"pooler.{name}" for name in pooler.state_dict()} if isinstance(pooler, nn.Module) else set()
    if not names or not names <= missing:
        return missing
    bare.pooler = None
    return missing - names


def _names_of_head(model: PreTrainedModel) -> set[str]:
    encoder = encoder_of(model)
    if encoder is model:
        return set()
    inside = next(name for name, module in model.named_modules() if module is encoder)
    return {name for name in model.state_dict() if not name.startswith(f"{inside}.")}


def _belongs(name: str, model: PreTrainedModel) -> bool:
    """Whether a tensor that found no place is one of the model's own, and not of another head around it.

    Mask tokens serve masked pre-training alone, and numbered positions are computed.
    """
    if name.endswith(("mask_token", "position_ids")):
        return False
    encoder = encoder_of(model)
    first = name.removeprefix(f"{model.base_model_prefix}.").partition(".")[0]
    return first in {child for child, _ in encoder.named_children()}
