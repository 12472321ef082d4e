import json
from collections.abc import Callable

from embedkd.config import RECIPES
from embedkd.losses import LOSSES

Command = Callable[..., tuple[int, str, str]]


def test_losses_and_recipes_are_listed(embedkd: Command) -> None:
    code, out, _ = embedkd("losses")
    assert code == 0
    listed = [line.split()[0] for line in out.splitlines() if line and not line.startswith("embedkd losses")]
    assert [name for name in listed if name in {*LOSSES, *RECIPES}] == [*LOSSES, *RECIPES]
    assert "cross_entropy 0.1, kl 0.9" in out


def test_a_loss_is_shown_with_its_options(embedkd: Command) -> None:
    code, out, _ = embedkd("losses", "sample_contrastive")
    assert code == 0
    assert "temperature 0.1, mask_same_class true" in out
    assert "output -, centre false, standardise false, tap -" in out
    assert "--loss sample_contrastive=1" in out
    assert "learns" not in out
    assert "learns           log_scale 2.659" in embedkd("losses", "interactive_contrastive")[1]


def test_a_recipe_is_shown_with_its_weights(embedkd: Command) -> None:
    _, out, _ = embedkd("losses", "hinton")
    assert "cross_entropy 0.1, kl 0.9" in out
    assert "kl temperature 4" in out
    assert "use it: embedkd train --targets STORE --recipe hinton" in out


def test_scripts_read_json(embedkd: Command) -> None:
    found = json.loads(embedkd("losses", "--json")[1])
    assert set(found["losses"]) == set(LOSSES)
    assert {name: recipe["losses"] for name, recipe in found["recipes"].items()} == {
        name: dict(recipe.losses) for name, recipe in RECIPES.items()
    }
    one = json.loads(embedkd("losses", "kl", "--json")[1])
    assert (one["name"], one["needs"], one["options"]) == ("kl", ["logits", "target_logits"], {"temperature": 4.0})


def test_an_unknown_name_is_told_with_the_nearest(refused: Callable[..., str]) -> None:
    assert "unknown loss or recipe 'hintn'; did you mean hinton" in refused("losses", "hintn")


def test_a_recipe_and_losses_exclude_each_other(refused: Callable[..., str]) -> None:
    assert "expected a recipe or losses" in refused("train", "--recipe", "hinton", "--loss", "mse=1")
