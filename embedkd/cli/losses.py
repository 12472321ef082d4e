"""``embedkd losses``: losses and recipes, and what one of them is."""

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedkd.cli.options import AsJson
from embedkd.cli.output import print_json, print_rows, say
from embedkd.errors import UnknownNameError

if TYPE_CHECKING:
    from embedkd.config import Recipe
    from embedkd.losses import LossEntry

Facts = dict[str, Any]


def losses_command(
    name: Annotated[str | None, typer.Argument(help="A loss or a recipe to show.")] = None,
    as_json: AsJson = False,
) -> None:
    """Losses and recipes: what each needs, its options, and where it comes from."""
    from embedkd.config import RECIPES
    from embedkd.losses import LOSSES

    losses = {key: _loss_facts(entry) for key, entry in LOSSES.items()}
    recipes = {key: _recipe_facts(recipe) for key, recipe in RECIPES.items()}
    if name is None:
        if as_json:
            print_json({"losses": losses, "recipes": recipes})
        else:
            _list(losses, recipes)
        return
    if name not in losses and name not in recipes:
        raise UnknownNameError("loss or recipe", name, [*losses, *recipes])
    facts = losses.get(name) or recipes[name]
    if as_json:
        print_json({"name": name, **facts})
        return
    shown = {label: _text(value) for label, value in {"name": name, **facts}.items() if value not in ({}, [], None)}
    for label, text in shown.items():
        say(f"{label.replace('_', ' '):<{max(map(len, shown))}}  {text}")
    use = f"--recipe {name}" if name in recipes else f"--loss {name}=1"
    say(f"\nuse it: embedkd train --targets STORE {use}")


def _loss_facts(entry: "LossEntry") -> Facts:
    from embedkd.training.terms import comparison_options

    return {
        "what": _first_paragraph(entry),
        "source": entry.source,
        "needs": sorted(entry.needs),
        "options": entry.options,
        "teacher_options": comparison_options(entry),
        "learns": dict(entry.learned),
        "projected": entry.projection,
        "smallest_batch": entry.smallest_batch,
    }


def _recipe_facts(recipe: "Recipe") -> Facts:
    return {
        "source": recipe.source,
        "losses": dict(recipe.losses),
        "loss_options": {loss: dict(options) for loss, options in recipe.loss_options.items()},
        "settings": dict(recipe.settings),
    }


def _first_paragraph(entry: "LossEntry") -> str:
    return (inspect.getdoc(entry.function) or "").partition("\n\n")[0].replace("\n", " ")


def _list(losses: dict[str, Facts], recipes: dict[str, Facts]) -> None:
    print_rows(
        ("loss", "needs", "projected", "source"),
        [
            (name, ", ".join(facts["needs"]), facts["projected"] or "-", facts["source"])
            for name, facts in losses.items()
        ],
    )
    say("")
    print_rows(
        ("recipe", "losses", "source"),
        [(name, _text(facts["losses"]), facts["source"]) for name, facts in recipes.items()],
    )
    say("\nembedkd losses NAME shows one")


def _text(value: object) -> str:
    """A fact as one line: options as ``temperature 0.1``."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return _text(value)
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
