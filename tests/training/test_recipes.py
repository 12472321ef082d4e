"""Every loss and every recipe, from a store to a finished run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from embedkd.config import RECIPES, Config, load_config
from embedkd.errors import Interrupted
from embedkd.losses import LOSSES
from embedkd.progress import Silent
from embedkd.rundir import RunDir
from embedkd.training import train
from embedkd.training.checkpoint import read_checkpoint

PIPELINES = Path(__file__).parents[2] / "pipelines"
ConfigOf = Callable[..., Config]
ALL = (
    f"losses={{{', '.join(f'{name}=0.1' for name in LOSSES)}}}",
    "loss_options.kl.fitted=true",
    "loss_options.class_contrastive.centre=true",
    "loss_options.gradient.centre=true",
    "augment.flip=0",
    "augment.crop_padding_px=0",
)


class StopAt(Silent):
    """Sends no signal: raises what a signal would, after a step."""

    def __init__(self, step: int) -> None:
        self._left = step

    def advance(self, count: int, note: str = "") -> None:
        self._left -= count
        if self._left == 0:
            raise Interrupted("stopped")


@pytest.mark.parametrize("name", RECIPES)
def test_the_pipeline_of_a_recipe_runs(name: str, data: Path, tmp_path: Path) -> None:
    places = {"train.targets": str(data / "store.zarr"), "train.out": str(tmp_path / "run")}
    small = {"train.epochs": 1, "train.workers": 0, "train.device": "cpu", "train.global_batch_size": 8}
    config = load_config(PIPELINES / f"{name}.toml", values=places | small, sets=["train.teacher=none"])
    result = train(config)
    assert result.losses == RECIPES[name].losses
    assert result.teacher == "test:mean-colour"
    assert result.view_mismatch == {"embedkd": ["mse"], "embedkd-head": ["kl", "mse"]}.get(name, [])


def test_all_losses_learn_together_and_learn_on_after_a_stop(config_of: ConfigOf) -> None:
    whole, halved = config_of(*ALL, out="whole"), config_of(*ALL, "train.checkpoint_every_steps=1", out="halved")
    result = train(whole)
    assert result.losses == dict.fromkeys(LOSSES, 0.1)
    lines = RunDir(Path(whole.train.out)).read_metrics("train")
    assert set(lines[0]["terms"]) == set(LOSSES)
    assert lines[-1]["loss"] < lines[0]["loss"]
    with pytest.raises(Interrupted):
        train(halved, progress=StopAt(5))
    train(halved, resume=True)
    one, other = (RunDir(Path(config.train.out)) for config in (whole, halved))
    assert one.weights.read_bytes() == other.weights.read_bytes()
    ours, theirs = (read_checkpoint(run.checkpoint).objective for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)
    assert {"losses.gradient.log_scale", "losses.similarity_binary_kl.bias"} < ours.keys()
