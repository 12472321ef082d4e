from pathlib import Path

import pytest

from embedkd.config import DEFAULT_RECIPE, RECIPES, load_config
from embedkd.errors import ConfigError, UnknownNameError
from embedkd.training.terms import build_terms


@pytest.mark.parametrize("name", RECIPES)
def test_names_and_options_of_a_recipe_exist(name: str) -> None:
    config = load_config(values={"recipe": name})
    assert {term.name: term.weight for term in build_terms(config.losses, config.loss_options)} == RECIPES[name].losses


def test_the_recipes_of_the_papers() -> None:
    weights = {name: dict(recipe.losses) for name, recipe in RECIPES.items()}
    assert weights["clip-embed-kd"] == {"cross_entropy": 0.5, "class_contrastive": 0.5}
    assert weights["clip-teacher-kd"] == {"cross_entropy": 0.5, "sample_contrastive": 0.5}
    assert sum(weights["hinton"].values()) == 1
    assert weights["clip-kd"]["mse"] == weights["feature"]["mse"] == 2000
    assert RECIPES["clip-kd"].loss_options["mse"] == {"normalise": True}, "the weight rests on directions"


def test_nothing_named_is_the_default_recipe() -> None:
    config = load_config()
    assert load_config(values={"recipe": DEFAULT_RECIPE}) == config
    assert (config.losses, config.loss_options) == (
        RECIPES[DEFAULT_RECIPE].losses,
        RECIPES[DEFAULT_RECIPE].loss_options,
    )
    assert config.train.allow_view_mismatch
    assert config.train.keep_unlabelled


def test_losses_that_are_named_have_nothing_of_the_default_recipe(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[losses]\ncosine = 2\n")
    for config in (
        load_config(path),
        load_config(values={"losses": {"cosine": 2.0}}),
        load_config(sets=["losses={cosine=2}"]),
    ):
        assert (config.losses, config.loss_options) == ({"cosine": 2.0}, {})
        assert not config.train.allow_view_mismatch


def test_settings_that_are_given_win_over_the_recipes(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[train]\nkeep_unlabelled = false\n")
    config = load_config(path, values={"train.allow_view_mismatch": False})
    assert not config.train.keep_unlabelled
    assert not config.train.allow_view_mismatch
    assert load_config(sets=["train.keep_unlabelled=false"]).train.keep_unlabelled is False


def test_a_flag_beats_the_recipe_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('recipe = "hinton"\n[train]\nepochs = 3\n')
    assert load_config(path).losses == RECIPES["hinton"].losses
    config = load_config(path, values={"recipe": "clip-kd"})
    assert (config.losses, config.train.epochs) == (RECIPES["clip-kd"].losses, 3)


def test_options_and_single_weights_change_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'recipe = "clip-kd"\n[loss_options.mse]\noutput = "cls"\n[loss_options.similarity_kl]\ncentre = true\n'
    )
    config = load_config(path, sets=["losses.mse=5", "loss_options.mse.centre=true"])
    assert config.losses == {**RECIPES["clip-kd"].losses, "mse": 5.0}
    assert config.loss_options == {
        "mse": {"normalise": True, "output": "cls", "centre": True},
        "similarity_kl": {"centre": True},
    }
    assert RECIPES["clip-kd"].loss_options == {"mse": {"normalise": True}}, "the table is as it was"


def test_a_recipe_and_losses_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[losses]\nmse = 2\n")
    for given in ({"recipe": "hinton"}, {"recipe": "hinton", "losses": {"mse": 1.0}}):
        with pytest.raises(
            ConfigError, match="expected a recipe or losses, got recipe 'hinton' and mse; leave one out"
        ):
            load_config(path, values=given)


def test_an_unknown_recipe_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown recipe 'hintn'; did you mean hinton"):
        load_config(values={"recipe": "hintn"})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("train = 3\n", "train"),
        ("loss_options = 3\n", "loss_options"),
        ("[loss_options]\nmse = 3\n", "loss_options.mse"),
    ],
)
def test_what_is_no_table_is_named_though_the_default_recipe_would_fill_it(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"^{key}: expected a table, got int 3"):
        load_config(path)


def test_a_recipe_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('recipe = ["hinton"]\n')
    with pytest.raises(UnknownNameError, match="unknown recipe"):
        load_config(path)


def test_the_runs_of_a_demo_have_no_settings_that_nobody_gave(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[[demo.runs]]\nname = 'a'\nlosses = {'mse@x' = 1.0}\n[loss_options.mse]\nnormalise = true\n")
    config = load_config(path)
    (run,) = config.demo.runs
    made = config.for_demo_run(run)
    assert not made.train.allow_view_mismatch
    assert made.loss_options["mse"]["normalise"] is True
