"""Models of open_clip: where config and weights lie, and the model built from them.

A config may come from a stranger: it chooses numbers within bounds and names of known architectures, nothing else.
"""

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn

from embedkd.errors import TeacherError, UnknownNameError
from embedkd.teachers.checkpoints import read_checkpoint
from embedkd.teachers.drawing import draw_model
from embedkd.teachers.folders import read_json
from embedkd.teachers.hub import fetch_folder
from embedkd.teachers.known.openclip import CONFIG_FILE, DEFAULT_TAGS
from embedkd.teachers.timm_outputs import near_architectures
from embedkd.teachers.weights import compare_state, refuse_misfits

if TYPE_CHECKING:
    from embedkd.teachers.base import ResolvedName

# In open_clip's own order; the last two are also what transformers calls its files in the same repositories.
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
)
# What open_clip raises where a config's numbers fit no model.
UNBUILDABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_LIMITS = {"layers": 1_000, "image_size": 8_192, "context_length": 4_096, "vocab_size": 1 << 21, "heads": 1_024}
_REPOSITORY = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
_LARGEST = 65_536
_LARGEST_GRID = 1 << 26
# Facts beside the weights in OpenAI's own archives, and a buffer that transformers no longer keeps.
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids")


@dataclass(frozen=True)
class ClipSource:
    """A model of open_clip and where its weights lie.

    Attributes:
        source: For people.
        architecture: ``model_cfg``, as open_clip writes it.
        pixels: ``preprocess_cfg``: mean and std, and what else it says.
        file: Its weights; None where they are to be drawn.
        folder: Where its config came from; None for one of the library's.
        revision: Of a hub's snapshot.
    """

    source: str
    architecture: Mapping[str, Any]
    pixels: Mapping[str, Any]
    file: Path | None = None
    folder: Path | None = None
    revision: str | None = None


def find_source(name: "ResolvedName", *, drawn: bool) -> ClipSource:
    """Where a model's config and weights lie; fetches them from the hub where the name gives no path.

    Args:
        name: The teacher.
        drawn: Whether its weights will be drawn, so that none are needed.

    Raises:
        UnknownNameError: The model has no such tag.
        TeacherError: The weights cannot be had, or nothing says how images are prepared.
    """
    path = Path(name.weights).expanduser() if name.weights else None
    if path is not None and path.is_dir():
        return _in_folder(path, {}, None, drawn=drawn)
    if path is not None:
        return _beside(path, name.model, drawn=drawn)
    tag = name.tag or DEFAULT_TAGS.get(name.model)
    tags = open_clip.list_pretrained_tags_by_model(name.model)
    if tag is None:
        raise TeacherError(
            f"{name.name} has no default weights; say which, as in {name.name}@{tags[0] if tags else 'FILE'}\n"
            f"its tags: {', '.join(tags) or 'none, so give a checkpoint'}"
        )
    config = open_clip.get_pretrained_cfg(name.model, tag)
    if not config:
        raise UnknownNameError(f"tag of {name.model}", tag, tags)
    if drawn:
        architecture = _library_architecture(name.model) | _activation(config)
        return ClipSource(f"open_clip's {name.model}@{tag}", architecture, config)
    repo_id, _, file = config.get("hf_hub", "").rpartition("/")
    if not repo_id:
        raise TeacherError(
            f"open_clip has {name.model}@{tag} at an address only: {config.get('url')}\n"
            f"download that file and say `--teacher openclip:{name.model}@FILE`"
        )
    folder = fetch_folder(repo_id, name.name, (f"{Path(file).stem}.safetensors", file) if file else WEIGHT_FILES)
    return _in_folder(folder, _library_architecture(name.model), repo_id, config=config, weights=file)


def build(found: ClipSource, seed: int | None) -> tuple[Any, Any]:
    """The model in float32, in evaluation mode, and the same without weights on the meta device.

    Raises:
        TeacherError: The config describes no model, the weights are unsafe or unreadable, or do not fit.
    """
    create = _creator(found)
    try:
        with torch.device("meta"):
            blank = create()
    except UNBUILDABLE as error:
        raise TeacherError(f"{found.source} describes no model: {' '.join(str(error).split())}") from error
    if seed is not None or found.file is None:
        model = draw_model(create, seed or 0)
    else:
        state = _translate(read_checkpoint(found.file), blank)
        expected = blank.state_dict()
        needed, held = (sum(tensor.numel() for tensor in tensors.values()) for tensors in (expected, state))
        if needed > 2 * held:
            raise TeacherError(f"{found.source} describes {needed:,} weights, the file holds {held:,}")
        refuse_misfits(found.source, compare_state(state, expected))
        with torch.random.fork_rng(devices=[]):  # what the library draws is overwritten, and moves nobody's generator
            model = create()
        model.load_state_dict(state)
    return model.eval(), blank.eval()


def _in_folder(
    folder: Path,
    architecture: Mapping[str, Any],
    repo_id: str | None,
    *,
    drawn: bool = False,
    config: Mapping[str, Any] | None = None,
    weights: str = "",
) -> ClipSource:
    """A folder as open_clip writes it; what a hub's folder leaves out, the tag's own entry in open_clip says."""
    document: Mapping[str, Any] = {}
    if (folder / CONFIG_FILE).is_file() or not architecture:
        document = read_json(folder / CONFIG_FILE)
    model_cfg = document.get("model_cfg") or {**architecture, **_activation(config or {})}
    if not model_cfg:
        raise TeacherError(f"'{folder / CONFIG_FILE}' has no model_cfg; copy the model's whole folder")
    pixels = {**(config or {}), **(document.get("preprocess_cfg") or {})}
    names = (f"{Path(weights).stem}.safetensors", weights) if weights else WEIGHT_FILES
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None and not drawn:
        raise TeacherError(f"'{folder}' holds no weights: expected {names[0]} or {names[-1]}; copy the whole folder")
    check_pixels(pixels, f"'{folder / CONFIG_FILE}'")
    revision = folder.name if repo_id else None
    return ClipSource(repo_id or f"'{folder}'", model_cfg, pixels, None if drawn else file, folder, revision)


def _beside(file: Path, model: str, *, drawn: bool) -> ClipSource:
    """A checkpoint, with a config beside it that says how its images are prepared."""
    config = file.parent / CONFIG_FILE
    if not config.is_file():
        raise TeacherError(
            f"'{file}' holds weights alone, and nothing says how its images are prepared; write '{config}', as in\n"
            '{"preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, '
            '0.27577711], "interpolation": "bicubic", "resize_mode": "shortest"}}'
        )
    document = read_json(config)
    pixels = document.get("preprocess_cfg") or {}
    check_pixels(pixels, f"'{config}'")
    architecture = document.get("model_cfg") or _library_architecture(model)
    return ClipSource(f"'{file}'", architecture, pixels, None if drawn else file, file.parent)


def check_pixels(pixels: Any, source: str) -> None:
    """Make sure that a config says how images are normalised: open_clip would take OpenAI's numbers.

    Raises:
        TeacherError: It does not.
    """
    missing = [key for key in ("mean", "std") if not isinstance(pixels, Mapping) or not pixels.get(key)]
    if missing:
        raise TeacherError(
            f"{source} lacks {' and '.join(missing)} in its preprocess_cfg, so its images cannot be prepared\n"
            'add what the model was trained with, as in "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": '
            '[0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}'
        )


def _library_architecture(model: str) -> dict[str, Any]:
    architecture: dict[str, Any] | None = open_clip.get_model_config(model)
    if architecture is None:
        raise UnknownNameError("model of open_clip", model, open_clip.list_models())
    return architecture


def _activation(config: Mapping[str, Any]) -> dict[str, Any]:
    """The activation that a tag's weights were trained with: the same architecture has tags of both kinds."""
    return {"quick_gelu": bool(config.get("quick_gelu"))} if config else {}


def _creator(found: ClipSource) -> Callable[[], Any]:
    """What builds the model, as open_clip's factory does; the config is checked and names nothing to download."""
    config = deepcopy(dict(found.architecture))
    vision, text = config.get("vision_cfg"), config.get("text_cfg")
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise TeacherError(f"{found.source} has no vision_cfg and text_cfg in its model_cfg; copy the whole folder")
    _check_numbers("model_cfg", config, found.source)
    side, patch = (_longest(vision.get(key, 16)) for key in ("image_size", "patch_size"))
    if (side / max(patch, 1)) ** 2 * vision.get("width", 768) > _LARGEST_GRID:
        raise TeacherError(f"{found.source} cuts images of {side} px into patches of {patch} px: too many")
    trunk = vision.get("timm_model_name")
    if trunk is not None:
        from timm import is_model

        # A name with a colon would send timm to a hub or a folder.
        if not isinstance(trunk, str) or ":" in trunk or not is_model(trunk):
            raise UnknownNameError("timm model", str(trunk), near_architectures(str(trunk)))
    vision["timm_model_pretrained"] = False
    custom = config.pop("custom_text", False)
    if "hf_model_name" in text:
        text["hf_model_name"] = str(_text_config(str(text["hf_model_name"]), found))
        text["hf_model_pretrained"] = False
        custom = True
    kind = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    return partial(kind, **config)


def _text_config(wanted: str, found: ClipSource) -> Path:
    """The folder with the config of a text tower of transformers: inside the model's folder, or from the hub."""
    if not _REPOSITORY.fullmatch(wanted):  # a path would lead out of the folder
        raise TeacherError(f"{found.source} names the text tower {wanted!r}; expected a repository: organisation/model")
    beside = found.folder / Path(wanted).name if found.folder is not None else None
    if beside is None or not (beside / "config.json").is_file():
        try:
            beside = fetch_folder(wanted, "openclip:", weights=())
        except TeacherError as error:
            place = beside or f"FOLDER/{Path(wanted).name}"
            raise TeacherError(
                f"{found.source} has the text tower {wanted}, and {str(error).splitlines()[0]}\n"
                f"where it can be reached, run `hf download {wanted} config.json --local-dir {place}`"
            ) from error
    if "auto_map" in read_json(beside / "config.json"):
        raise TeacherError(f"'{beside / 'config.json'}' asks for code of its own; refused")
    return beside


def _check_numbers(key: str, value: Any, source: str) -> None:
    inner = value.items() if isinstance(value, dict) else [(key, given) for given in value] if _is_list(value) else ()
    for name, given in inner:
        _check_numbers(str(name), given, source)
    limit = _LIMITS.get(key, _LARGEST)
    size = len(value) if _is_list(value) else value if isinstance(value, int | float) else 0
    if not -limit <= size <= limit:
        raise TeacherError(f"{source} has {key} {size}, expected at most {limit}")


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _longest(value: Any) -> int:
    sides = value if _is_list(value) else [value]
    return max((side for side in sides if isinstance(side, int)), default=0)


def _translate(state: dict[str, Tensor], blank: nn.Module) -> dict[str, Tensor]:
    """The names that this version of open_clip has for the tensors of older ones and of Apple's."""
    expected = blank.state_dict()
    state = convert_state_dict(blank, state)
    if "positional_embedding" in state and not hasattr(blank, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    state = {name: tensor for name, tensor in state.items() if name in expected or name not in _NO_WEIGHTS}
    for scalar in ("logit_scale", "logit_bias"):
        if scalar in state and scalar in expected and state[scalar].numel() == 1:
            state[scalar] = state[scalar].reshape(expected[scalar].shape)
    return state
