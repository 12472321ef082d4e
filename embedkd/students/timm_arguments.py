"""From a student's options to the arguments of timm's model, each checked against what that model takes."""

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import timm
import torch

from embedkd.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedkd.students.names import StudentName
    from embedkd.students.spec import StudentOptions, Value

# Option to timm's argument, and what to say where a model lacks it.
_OPTIONS: Final = {
    "patch_px": ("patch_size", "has no patches of a size to choose; leave student.patch_px out"),
    "drop_path": ("drop_path_rate", "has no branches that timm can drop; leave student.drop_path at 0"),
    "dropout": ("attn_drop_rate", "has no attention weights that timm can drop; leave student.dropout at 0"),
    "mask_ratio": (
        "patch_drop_rate",
        "cannot leave out patches of its input; --mask-ratio is for plain vision transformers such as vit-base or "
        "timm:vit_tiny_patch16_224",
    ),
}
# Set by the options above, by the data, or by nobody.
_TAKEN = frozenset(
    {
        *(argument for argument, _ in _OPTIONS.values()),
        *("self", "num_classes", "in_chans", "img_size", "device", "dtype", "cfg", "block_args"),
    }
)
# What timm and torch raise where arguments fit no model.
UNBUILDABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def timm_arguments(name: "StudentName", num_classes: int, image_px: int, options: "StudentOptions") -> dict[str, Any]:
    """Arguments of ``timm.create_model`` beside the architecture.

    Raises:
        ConfigError: The model does not take an option, or a number is out of range.
        UnknownNameError: It has no such further argument; says the nearest.
    """
    if num_classes < 1:
        raise ConfigError(f"student: expected at least 1 class, got {num_classes}")
    takes = accepted_arguments(name.architecture)
    arguments: dict[str, Any] = {**name.arguments, "num_classes": num_classes}
    if "img_size" in takes:
        arguments["img_size"] = image_px
    for option, (argument, lacking) in _OPTIONS.items():
        value = getattr(options, option)
        if value in {None, 0.0} and value is not False:
            continue
        if argument not in takes:
            raise ConfigError(f"{name.model} {lacking}")
        arguments[argument] = value
    return arguments | _further_arguments(name, takes, options)


def option_names(name: "StudentName") -> list[str]:
    """Which of a student's options a model takes, then what else ``student.options`` may set.

    Raises:
        ConfigError: timm cannot build the model.
    """
    takes = accepted_arguments(name.architecture)
    own = [option for option, (argument, _) in _OPTIONS.items() if argument in takes]
    return own + [f"options.{argument}" for argument in sorted(takes - _TAKEN - set(name.arguments))]


def _further_arguments(name: "StudentName", takes: frozenset[str], options: "StudentOptions") -> dict[str, "Value"]:
    free = takes - _TAKEN - set(name.arguments)
    for key in options.extra:
        if key not in free:
            raise UnknownNameError(f"key of student.options for {name.model}", key, free)
    return dict(options.extra)


@cache
def accepted_arguments(architecture: str) -> frozenset[str]:
    """Names of all arguments that the class of a timm model declares.

    Only declared ones: some classes swallow any others without a word.

    Raises:
        ConfigError: timm cannot build the model.
    """
    try:
        with torch.device("meta"):
            model = timm.create_model(architecture)
    except UNBUILDABLE as error:
        raise ConfigError(f"timm cannot build {architecture}: {' '.join(str(error).split())}") from error
    names: set[str] = set()
    for kind in type(model).__mro__:
        init: Callable[..., None] | None = vars(kind).get("__init__")
        if init is None:
            continue
        parameters = inspect.signature(init).parameters.values()
        names |= {p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break  # what the classes above take cannot be reached
    return frozenset(names)
