"""Training checkpoints: the weights within a file that holds more than weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from embedkd.errors import TeacherError
from embedkd.teachers.weights import read_pickle, read_weights

if TYPE_CHECKING:
    from pathlib import Path

# Where training scripts of timm, open_clip and DeiT keep the weights, an average over steps before the last step's.
_WEIGHT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
# What wrappers of a module put before its names.
_WRAPPERS = ("_orig_mod.", "module.")


def read_checkpoint(file: "Path") -> dict[str, Tensor]:
    """The weights of one file, whether it holds them alone or beside an optimiser's state and counters.

    Raises:
        TeacherError: The file is missing or damaged, holds code, or holds no weights.
    """
    document: Any = read_weights([file]) if file.suffix == ".safetensors" else read_pickle(file)
    if isinstance(document, Mapping):
        nested = [document[key] for key in _WEIGHT_KEYS if isinstance(document.get(key), Mapping)]
        inner = nested[0] if nested else document
        state = {str(name): tensor for name, tensor in inner.items() if isinstance(tensor, Tensor)}
        if state and len(state) == len(inner):
            return _unwrapped(state)
    raise TeacherError(f"'{file}' holds no weights (names and tensors); expected a state dict or a training checkpoint")


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in range(2):  # a compiled module in a distributed one, or the reverse
        for wrapper in _WRAPPERS:
            if all(name.startswith(wrapper) for name in state):
                state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    # A pickle keeps strides, and other strides take other kernels with other last bits.
    return {name: tensor.contiguous() for name, tensor in state.items()}
