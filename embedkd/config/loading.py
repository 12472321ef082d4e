"""A config from where people say what they want: a TOML file, flags, and ``--set section.key=value``."""

import tomllib
from typing import TYPE_CHECKING, Any

from embedkd.config.augmentation import expand_augmentation
from embedkd.config.conversion import TypedText
from embedkd.config.recipes import DEFAULT_RECIPE, expand_recipe
from embedkd.config.sections import Config
from embedkd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def load_config(
    path: "Path | None" = None, *, values: "Mapping[str, object] | None" = None, sets: "Sequence[str]" = ()
) -> Config:
    """Defaults, changed by a TOML file, by flags, and by ``section.key=value`` texts, in that order.

    Where none of them names losses or a recipe, the losses, options and settings are those of the default recipe.

    Args:
        path: The file; None has only the defaults below the rest.
        values: Dotted key to a value of the key's type; None is a flag that was not given. ``recipe``, here or at the
            top of the file, names losses with their weights; ``augment.preset`` names settings of that section.
        sets: ``section.key=value`` each; the value in TOML, where text needs no quotes and ``none`` unsets.

    Raises:
        ConfigError: The file cannot be read, a value cannot be used, or there are a recipe and losses.
        UnknownNameError: A key or a recipe that is not there.

    >>> load_config(sets=["train.epochs=3", "student.name=vit-base"]).train.epochs
    3
    """
    document = {} if path is None else _read_toml(path)
    for key, value in (values or {}).items():
        if value is not None:
            _put(document, key, value)
    named = bool({"losses", "recipe"} & document.keys()) or any(_key(text) == "losses" for text in sets)
    if not named:
        document["recipe"] = DEFAULT_RECIPE
    # The default recipe's settings were measured with its losses, and those of a demo's runs are others.
    expand_recipe(document, settings=named or "demo" not in document)
    for text in sets:
        key, separator, typed = text.partition("=")
        if not separator:
            raise ConfigError(f"expected --set section.key=value, got {text!r}")
        _put(document, key.strip(), TypedText(typed.strip()))
    expand_augmentation(document)
    return Config.from_dict(document)


def _key(text: str) -> str:
    return text.partition("=")[0].strip()


def _read_toml(path: "Path") -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _put(document: dict[str, Any], key: str, value: object) -> None:
    """Set one dotted key of a document of tables."""
    *tables, last = key.split(".")
    for name in tables:
        document = document.setdefault(name, {})
        if not isinstance(document, dict):
            raise ConfigError(f"{key}: expected a table at {name!r}, got {type(document).__name__} {document!r}")
    document[last] = value
