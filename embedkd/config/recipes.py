"""Recipes: named weighted sums of losses, as data. Names of losses are looked up where their table is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from embedkd.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class Recipe:
    """What a student is asked to do, by a name.

    Attributes:
        losses: Name of a loss to its weight.
        source: Where it was published, in one line.
        loss_options: Name of a loss to those of its options that are not the defaults.
        settings: Further settings that it was measured with, by dotted key, where nobody gives another value.
    """

    losses: Mapping[str, float]
    source: str
    loss_options: Mapping[str, Mapping[str, bool | float | str]] = field(default_factory=dict)
    settings: Mapping[str, bool] = field(default_factory=dict)


# Rows of whole images serve crops as labels do, and need no label: docs/decisions/0014.
_ROWS_AS_LABELS: Final = {"train.allow_view_mismatch": True, "train.keep_unlabelled": True}

DEFAULT_RECIPE: Final = "embedkd"
RECIPES: Final[Mapping[str, Recipe]] = {
    "embedkd": Recipe(
        {"cross_entropy": 1.0, "mse": 4.0},
        source="this project, docs/decisions/0014: labels, and standardised rows of all samples",
        loss_options={"mse": {"standardise": True}},
        settings=_ROWS_AS_LABELS,
    ),
    "embedkd-head": Recipe(
        {"cross_entropy": 1.0, "kl": 1.0, "mse": 4.0},
        source="this project, docs/decisions/0014: the same, and the logits of a head on the rows (embedkd head)",
        loss_options={"mse": {"standardise": True}},
        settings=_ROWS_AS_LABELS,
    ),
    "clip-embed-kd": Recipe(
        {"cross_entropy": 0.5, "class_contrastive": 0.5},
        source="CLIP-Embed-KD (Nair 2024), with a temperature",
    ),
    "clip-teacher-kd": Recipe(
        {"cross_entropy": 0.5, "sample_contrastive": 0.5},
        source="CLIP-Teacher-KD (Nair 2024), from stored rows, with a temperature and without false negatives",
    ),
    "hinton": Recipe(
        {"cross_entropy": 0.1, "kl": 0.9},
        source="Hinton et al. 2015, with the weights and the temperature of Tian et al. 2020",
        loss_options={"kl": {"temperature": 4.0}},
    ),
    "feature": Recipe(
        {"cross_entropy": 1.0, "mse": 2000.0},
        source="FD of CLIP-KD (Yang et al. 2024), with labels as the task",
        loss_options={"mse": {"normalise": True}},
    ),
    "clip-kd": Recipe(
        {"cross_entropy": 1.0, "similarity_kl": 1.0, "interactive_contrastive": 1.0, "mse": 2000.0},
        source="CLIP-KD (Yang et al. 2024), for students without a text tower: labels as the task, classes as captions",
        loss_options={"mse": {"normalise": True}},
    ),
}


def expand_recipe(document: dict[str, Any], *, settings: bool = True) -> None:
    """Put what the recipe that a document names says in its place; options and settings that are given win over it.

    Args:
        document: Of tables; changed.
        settings: Whether its settings are put too.

    Raises:
        UnknownNameError: There is no such recipe.
        ConfigError: The document names losses too.
    """
    name = document.pop("recipe", None)
    if name is None:
        return
    if not isinstance(name, str) or name not in RECIPES:
        raise UnknownNameError("recipe", str(name), RECIPES)
    if "losses" in document:
        raise ConfigError(
            f"expected a recipe or losses, got recipe '{name}' and {', '.join(document['losses'])}; leave one out, or "
            "change a weight of the recipe by --set losses.NAME=WEIGHT"
        )
    recipe = RECIPES[name]
    document["losses"] = dict(recipe.losses)
    for loss, options in recipe.loss_options.items():
        for option, value in options.items():
            _put_default(document, ("loss_options", loss, option), value)
    for key, setting in recipe.settings.items() if settings else ():
        _put_default(document, key.split("."), setting)


def _put_default(document: dict[str, Any], path: Sequence[str], value: bool | float | str) -> None:
    """Set what nobody has set; whatever is no table stays, for `Config.from_dict` to refuse."""
    *tables, last = path
    table: object = document
    for name in tables:
        table = table.setdefault(name, {}) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table.setdefault(last, value)
