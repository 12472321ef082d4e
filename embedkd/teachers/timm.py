"""The ``timm:`` family: any model of timm, from the hub, from a folder in timm's own form, or from a checkpoint.

Preprocessing is timm's evaluation transform for the checkpoint's own ``pretrained_cfg``; where a folder leaves out
what timm would fill in from its defaults, loading stops.
"""

import copy
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from embedkd.errors import TeacherError
from embedkd.records import TeacherSpec
from embedkd.teachers.base import Backbone
from embedkd.teachers.checkpoints import read_checkpoint
from embedkd.teachers.classifier import with_classifier
from embedkd.teachers.drawing import draw_model
from embedkd.teachers.hub import read_licence
from embedkd.teachers.runner import TorchTeacher, choose_device, choose_precision
from embedkd.teachers.timm_checkpoint import Checkpoint, find_checkpoint
from embedkd.teachers.timm_outputs import TimmOutputs, find_outputs, forward_of, parts_of
from embedkd.teachers.transforms import describe_transform
from embedkd.teachers.weights import compare_state, read_weights, refuse_misfits, weights_sha256

if TYPE_CHECKING:
    from pathlib import Path

    from embedkd.teachers.base import LoadOptions, ResolvedName

# Arguments of a model that its tensors already tell, or that its spec tells elsewhere.
_TOLD_ELSEWHERE = ("num_classes", "in_chans", "img_size", "global_pool")
_LARGEST_SIDE_PX = 8_192
_LIBRARIES = ("torch", "torchvision", "timm", "pillow")
# What timm raises where a config's arguments fit no model.
_UNBUILDABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def load(name: "ResolvedName", options: "LoadOptions") -> TorchTeacher:
    """Load a model of timm from its folder, from a checkpoint, or from the hub where the name has neither.

    Raises:
        UnknownNameError: timm has no such model or tag.
        TeacherError: The hub cannot be reached, the folder is incomplete or unsafe, its config leaves the preprocessing
            to be guessed, the weights do not fit, or the device is not there.
    """
    place = choose_device(options.device)
    found = find_checkpoint(name, drawn=options.random_seed is not None)
    model, offer = build(found, options.random_seed)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    drawn = options.random_seed is not None
    spec = TeacherSpec(
        name=name.name,
        model=describe_architecture(found, model),
        weights_sha256=weights_sha256(model.state_dict()),
        outputs=offer.specs,
        preprocess=describe_transform(transform, found.source),
        normalised=False,
        precision=choose_precision(options.precision, place),
        source=f"random weights, seed {options.random_seed}" if drawn else name.weights or found.source,
        revision=None if drawn else found.revision,
        libraries=tuple((library, version(library)) for library in _LIBRARIES),
        licence=None if drawn else _licence(found, model),
        random_weights=drawn,
        layers=offer.layers,
    )
    teacher = teacher_of(model, offer, spec, transform, place)
    return with_classifier(teacher, found.folder) if found.folder is not None and not drawn else teacher


def teacher_of(
    model: nn.Module, offer: TimmOutputs, spec: TeacherSpec, transform: Callable[..., Tensor], place: torch.device
) -> TorchTeacher:
    """A teacher around a model of timm, with channels last where it is a convolutional network."""
    layout = torch.channels_last if offer.channels_first else torch.contiguous_format
    if offer.channels_first:
        model = model.to(memory_format=torch.channels_last)
    model = model.to(place)
    return TorchTeacher(spec, transform, forward_of(model, offer), place, layout, backbone=backbone_of(model, offer))


def backbone_of(model: Any, offer: TimmOutputs) -> Backbone | None:
    """What fine-tuning trains: everything up to the pooled features."""
    if not offer.pooled or not hasattr(model, "group_matcher"):
        return None

    def features(pixels: Tensor) -> Tensor:
        pooled: Tensor = model.forward_head(model.forward_features(pixels), pre_logits=True)
        return pooled

    # The original classifier is saved too: timm's form has one, and it says what the features were trained on.
    return Backbone(model, features, "pooled", parts_of(model), partial(save_model, model))


def save_model(model: nn.Module, folder: "Path") -> None:
    """Write a model in timm's folder form: config.json with its preprocessing, and model.safetensors."""
    # safetensors takes no tensor with its channels last.
    plain = copy.deepcopy(model).to("cpu").to(memory_format=torch.contiguous_format)
    timm.models.save_for_hf(plain, folder, safe_serialization=True)


def build(found: Checkpoint, seed: int | None) -> tuple[nn.Module, TimmOutputs]:
    """The model in float32, in evaluation mode, and what it offers.

    Raises:
        TeacherError: The config describes no model, the weights are unsafe or unreadable, or do not fit.
    """
    try:
        with torch.device("meta"):
            blank = timm.create_model(found.model, pretrained=False)
        channels, height, width = blank.pretrained_cfg["input_size"]
        if channels != 3 or not 1 <= min(height, width) <= max(height, width) <= _LARGEST_SIDE_PX:
            raise TeacherError(f"{found.source} takes images of {[channels, height, width]}, expected RGB")
        offer = find_outputs(blank, (height, width))
    except _UNBUILDABLE as error:
        raise TeacherError(f"{found.source} describes no model of timm: {' '.join(str(error).split())}") from error
    if not offer.specs:
        raise TeacherError(f"{found.source}: this model gives no vector for an image")
    if seed is not None:
        model = draw_model(partial(timm.create_model, found.model, pretrained=False), seed)
    else:
        model = _load_weights(found, blank)
    return model.eval().requires_grad_(False), offer


def describe_architecture(found: Checkpoint, model: Any) -> str:
    """One line that is the same for every copy of the same architecture."""
    facts = {key: value for key, value in found.arguments.items() if key not in _TOLD_ELSEWHERE}
    pool = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    kind = pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
    told = ({"global_pool": kind} if kind else {}) | dict(sorted(facts.items()))
    return f"timm {model.pretrained_cfg['architecture']}({', '.join(f'{key}={value}' for key, value in told.items())})"


def _load_weights(found: Checkpoint, blank: nn.Module) -> nn.Module:
    state = read_weights(found.files) if found.folder is not None else read_checkpoint(found.files[0])
    expected = blank.state_dict()
    needed, held = (sum(tensor.numel() for tensor in tensors.values()) for tensors in (expected, state))
    if needed > 2 * held:
        raise TeacherError(f"{found.source} describes {needed:,} weights, the files hold {held:,}")
    misfits = compare_state(state, expected)
    with torch.random.fork_rng(devices=[]):  # what a library draws is overwritten, and moves nobody's generator
        if not misfits:
            model: nn.Module = timm.create_model(found.model, pretrained=False)
            model.load_state_dict(state)
            return model
        # Other names: the form of the model's authors, which timm knows how to translate. Other shapes: another model.
        if set(state) == set(expected):
            refuse_misfits(found.source, misfits)
        try:
            translated: Any = timm.create_model(
                found.model, pretrained=True, pretrained_cfg_overlay={"state_dict": state}
            )
        except _UNBUILDABLE:
            refuse_misfits(found.source, misfits)
            raise
    translated.pretrained_cfg.pop("state_dict", None)
    return cast("nn.Module", translated)


def _licence(found: Checkpoint, model: Any) -> str | None:
    card = read_licence(found.folder) if found.folder is not None else None
    stated = model.pretrained_cfg.get("license")
    return card or (stated if isinstance(stated, str) else None)
