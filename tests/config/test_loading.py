from pathlib import Path

import pytest

from embedkd.config import DEFAULT_RECIPE, RECIPES, Config, load_config
from embedkd.errors import ConfigError, UnknownNameError

DEFAULT = RECIPES[DEFAULT_RECIPE]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(
        """
        [train]
        epochs = 7
        seed = 1
        [losses]
        mse = 2
        [[demo.runs]]
        name = "only"
        losses = { cosine = 1.0 }
        """
    )
    return path


def test_nothing_given_gives_the_defaults() -> None:
    config = load_config()
    assert config.losses == DEFAULT.losses
    assert (config.student, config.optimiser, config.augment) == (
        Config().student,
        Config().optimiser,
        Config().augment,
    )


def test_a_file_changes_what_it_names(file: Path) -> None:
    config = load_config(file)
    assert (config.train.epochs, config.train.seed) == (7, 1)
    assert config.losses == {"mse": 2.0}, "the table of a file replaces the recipe"
    assert [run.name for run in config.demo.runs] == ["only"]
    assert config.student == Config().student


def test_flags_beat_the_file_and_sets_beat_flags(file: Path) -> None:
    config = load_config(
        file,
        values={"train.epochs": 8, "train.seed": 2, "student.name": None, "precompute.outputs": ("cls",)},
        sets=["train.seed=3", "losses.mse=0", "losses.cosine=1", " train.out = there "],
    )
    assert (config.train.epochs, config.train.seed, config.train.out) == (8, 3, "there")
    assert config.losses == {"mse": 0.0, "cosine": 1.0}
    assert config.precompute.outputs == ("cls",)


def test_one_weight_leaves_the_default_recipe_in_place() -> None:
    assert load_config(sets=["losses.mse=1"]).losses == {**DEFAULT.losses, "mse": 1.0}
    assert load_config(sets=["losses={mse = 1}"]).losses == {"mse": 1.0}


def test_options_of_a_loss_are_set_one_by_one() -> None:
    sets = ["loss_options.class_contrastive.temperature=0.07", "loss_options.class_contrastive.output=pooled"]
    values = {"recipe": "clip-embed-kd"}
    config = load_config(values=values, sets=sets)
    assert config.loss_options == {"class_contrastive": {"temperature": 0.07, "output": "pooled"}}


@pytest.mark.parametrize("text", ["train.epochs", "", "epochs 3"])
def test_a_set_without_a_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected --set section.key=value"):
        load_config(sets=[text])


def test_a_key_below_a_value_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="expected a table at 'epochs', got int 7"):
        load_config(file, sets=["train.epochs.x=3"])


@pytest.mark.parametrize("text", ["=3", "train.=3", "trian.epochs=3"])
def test_a_key_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown config key"):
        load_config(sets=[text])


def test_a_file_that_is_missing_or_not_toml_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the config .*No such file"):
        load_config(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[train\nepochs=")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(broken)


PIPELINES = sorted((Path(__file__).parents[2] / "pipelines").glob("*.toml"))


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_pipeline_is_a_config(path: Path) -> None:
    assert load_config(path) != load_config()
