"""Recipes: named weighted sums of losses, as data. Names of losses are looked up where their table is."""

from collections.abc import Mapping
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
    """

    losses: Mapping[str, float]
    source: str
    loss_options: Mapping[str, Mapping[str, bool | float | str]] = field(default_factory=dict)


DEFAULT_RECIPE: Final = "clip-embed-kd"
RECIPES: Final[Mapping[str, Recipe]] = {
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


def expand_recipe(document: dict[str, Any]) -> None:
    """Put the losses of the recipe that a document names in its place; options that are given win over the recipe's.

    Raises:
        UnknownNameError: There is no such recipe.
        ConfigError: The document names losses too.
    """
    name = document.pop("recipe", None)
    if name is None:
        return
    if name not in RECIPES:
        raise UnknownNameError("recipe", str(name), RECIPES)
    if "losses" in document:
        raise ConfigError(
            f"expected a recipe or losses, got recipe '{name}' and {', '.join(document['losses'])}; leave one out, or "
            "change a weight of the recipe by --set losses.NAME=WEIGHT"
        )
    recipe, given = RECIPES[name], document.get("loss_options", {})
    document["losses"] = dict(recipe.losses)
    document["loss_options"] = dict(given) | {
        loss: {**options, **given.get(loss, {})} for loss, options in recipe.loss_options.items()
    }
