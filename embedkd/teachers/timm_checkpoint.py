"""Where a model of timm and its weights lie: a folder in timm's own form, a checkpoint, or the hub.

A folder may come from a stranger: its config chooses numbers within bounds and one of timm's architectures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm

from embedkd.errors import TeacherError, UnknownNameError
from embedkd.teachers.folders import read_json
from embedkd.teachers.hub import fetch_folder
from embedkd.teachers.timm_outputs import near_architectures
from embedkd.teachers.weights import find_weight_files

if TYPE_CHECKING:
    from embedkd.teachers.base import ResolvedName

# What decides the pixels. timm fills in ImageNet's numbers where a config leaves them out; that is guessing.
_PIXEL_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct")
_LARGEST_ARGUMENT = 65_536
_LARGEST_DEPTH = 1_000


@dataclass(frozen=True)
class Checkpoint:
    """A model of timm and where its weights lie.

    Attributes:
        model: What ``timm.create_model`` calls it: a name with its tag, or ``local-dir:`` and a folder.
        source: For errors.
        files: Its weights; none where they are to be drawn.
        folder: Where its config came from; None for one of the library's.
        revision: Of a hub's snapshot.
        arguments: What its config passes to the architecture.
    """

    model: str
    source: str
    files: tuple[Path, ...] = ()
    folder: Path | None = None
    revision: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def find_checkpoint(name: "ResolvedName", *, drawn: bool) -> Checkpoint:
    """Where a model's config and weights lie; fetches them from the hub where the name gives no path.

    Args:
        name: The teacher.
        drawn: Whether its weights will be drawn, so that none are needed.

    Raises:
        UnknownNameError: timm has no such model or tag.
        TeacherError: The weights cannot be had.
    """
    path = Path(name.weights).expanduser() if name.weights else None
    if path is not None and path.is_dir():
        return _in_folder(path, None, drawn=drawn)
    config = _library_config(name.model)
    if path is not None:
        if not config.tag or not name.model.endswith(f".{config.tag}"):
            raise TeacherError(
                f"'{path}' holds weights without their preprocessing, and {name.model} has several\n"
                f"name the tag that they belong to ({_tags(name.model)}), or save the model's folder: "
                "timm.models.save_for_hf(model, folder, safe_serialization=True)"
            )
        return Checkpoint(name.model, f"'{path}'", () if drawn else (path,))
    if drawn:
        return Checkpoint(name.model, f"timm's {name.model}")
    if not config.hf_hub_id:
        raise TeacherError(
            f"timm has no weights of {name.model} on the hub ({_tags(name.model) or 'none at all'})\n"
            f"download {config.url or 'them'} yourself and say `--teacher timm:{name.model}@FILE`"
        )
    return _in_folder(fetch_folder(config.hf_hub_id, name.name), config.hf_hub_id, drawn=False)


def _in_folder(folder: Path, repo_id: str | None, *, drawn: bool) -> Checkpoint:
    document = read_json(folder / "config.json")
    architecture = document.get("architecture")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise UnknownNameError("timm model", str(architecture), near_architectures(str(architecture)))
    pixels = document.get("pretrained_cfg", document)
    missing = [key for key in _PIXEL_KEYS if not isinstance(pixels, Mapping) or pixels.get(key) is None]
    if missing:
        raise TeacherError(
            f"'{folder / 'config.json'}' lacks {', '.join(missing)}, so its images cannot be prepared\n"
            'add to its "pretrained_cfg" what the model was trained with, as in "mean": [0.5, 0.5, 0.5], '
            '"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9'
        )
    arguments = document.get("model_args") or {}
    _check_arguments(folder, arguments)
    files = () if drawn else tuple(find_weight_files(folder))
    revision = folder.name if repo_id else None
    return Checkpoint(f"local-dir:{folder}", repo_id or f"'{folder}'", files, folder, revision, arguments)


def _check_arguments(folder: Path, arguments: Any) -> None:
    """Bound what a stranger's config can make us build; the files' sizes bound the rest."""

    def check(key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for inner, given in value.items():
                check(str(inner), given)
        elif isinstance(value, list):
            for given in value[: _LARGEST_DEPTH + 1]:
                check(key, given)
        limit = _LARGEST_DEPTH if any(word in key for word in ("depth", "layers", "blocks")) else _LARGEST_ARGUMENT
        size = len(value) if isinstance(value, list | Mapping) else value if isinstance(value, int | float) else 0
        if not -limit <= size <= limit:
            raise TeacherError(f"'{folder / 'config.json'}' has {key} {size}, expected at most {limit}")

    check("model_args", arguments)


def _library_config(model: str) -> Any:
    """The library's own config of a model, by its tag or, without one, timm's default.

    Raises:
        UnknownNameError: timm has no such model or tag.
    """
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        raise UnknownNameError("timm model", architecture, near_architectures(architecture))
    try:
        return timm.get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError as error:
        raise UnknownNameError(f"tag of {architecture}", tag or "(none)", _tags(model).split(", ")) from error


def _tags(model: str) -> str:
    architecture = model.partition(".")[0]
    return ", ".join(
        name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*") if name.partition(".")[2]
    )
