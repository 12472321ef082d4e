"""Weights: read from files without running code, compared with the model, digested independently of the file."""

import hashlib
import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from embedkd.errors import TeacherError
from embedkd.records import canonical_json
from embedkd.teachers.folders import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Names that transformers writes, safetensors first: one whole file, or an index of several.
_LAYOUTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_SHOWN_MISFITS = 3


def weights_sha256(state: "Mapping[str, Tensor]") -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names, as 64 hexadecimal digits.

    Taken from the loaded model, it is the same for safetensors and pickle files, for one file and for shards.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        head = canonical_json([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)])
        digest.update(len(head).to_bytes(8, "little") + head)
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, safetensors before pickles.

    Raises:
        TeacherError: There are none, or an index names files outside the folder.
    """
    for whole, index in _LAYOUTS:
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _files_of_index(folder / index)
    raise TeacherError(
        f"'{folder}' holds no weights: expected {_LAYOUTS[0][0]} or {_LAYOUTS[1][0]}\n"
        "copy the model's whole folder, or save it again with save_pretrained()"
    )


def read_weights(files: "Iterable[Path]") -> dict[str, Tensor]:
    """All tensors of some files, by name, on the CPU.

    Raises:
        TeacherError: A file is missing, damaged, or holds anything but tensors.
    """
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(_read_safetensors(file) if file.suffix == ".safetensors" else _read_state(file))
    return state


def compare_state(weights: "Mapping[str, Tensor]", model: "Mapping[str, Tensor]") -> list[str]:
    """Every difference in names and shapes, one phrase each; empty where the weights fit the model."""
    missing = [f"{name} is missing" for name in model if name not in weights]
    extra = [f"{name} is left over" for name in weights if name not in model]
    shapes = [
        describe_shapes(name, weights[name].shape, model[name].shape)
        for name in model
        if name in weights and weights[name].shape != model[name].shape
    ]
    return missing + extra + shapes


def describe_shapes(name: str, came: "Iterable[int]", expected: "Iterable[int]") -> str:
    """One phrase about a tensor of another shape."""
    return f"{name} is {list(came)}, the model expects {list(expected)}"


def refuse_misfits(source: str, misfits: "list[str]") -> None:
    """Stop where weights do not fit.

    Raises:
        TeacherError: There are misfits; the first ones are listed.
    """
    if misfits:
        more = f"; and {len(misfits) - _SHOWN_MISFITS} more" if len(misfits) > _SHOWN_MISFITS else ""
        raise TeacherError(
            f"the weights of {source} do not fit its model, {len(misfits)} differences\n"
            f"{'; '.join(misfits[:_SHOWN_MISFITS])}{more}"
        )


def _files_of_index(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        inside = all(Path(name).name == name for name in names)
    except (KeyError, TypeError, AttributeError) as error:
        raise TeacherError(
            f"'{index}' is no index of weight files: {error!r}; copy the model's folder again"
        ) from error
    # The index may come from a stranger: it chooses among its own folder's files and nothing else.
    if not names or not inside:
        raise TeacherError(f"'{index}' names files outside its own folder; refused")
    return [index.parent / name for name in names]


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise TeacherError(f"cannot read weights '{file}': {error}; copy the file again") from error


def read_pickle(file: Path) -> Any:
    """What a pickle of tensors, numbers and texts holds, without running code.

    Raises:
        TeacherError: It cannot be read, or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what cannot be read is refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TeacherError(
            f"'{file}' is a pickle that holds more than tensors and numbers, or is damaged; refused, since loading "
            "could run code\n"
            "save its weights as safetensors where you trust it: safetensors.torch.save_file(weights, file)"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise TeacherError(f"cannot read weights '{file}': {error}; copy the file again") from error


def _read_state(file: Path) -> dict[str, Tensor]:
    state = read_pickle(file)
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise TeacherError(f"'{file}' holds no state dict (names and tensors) but a {type(state).__name__}")
    # A pickle keeps strides, and other strides take other kernels with other last bits.
    return {name: tensor.contiguous() for name, tensor in state.items()}
