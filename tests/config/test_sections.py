import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from embedkd.config import Config, load_config
from embedkd.errors import ConfigError, UnknownNameError


@pytest.mark.parametrize(
    "change",
    [
        "precompute.batch_size=0",
        "precompute.threads=-1",
        "precompute.decode_workers=-1",
        "precompute.teachers=[]",
        "precompute.capacity=100",
        "precompute.capacity=0",
        "precompute.capacity=32768",
        "average.per_class=0",
        "student.image_px=0",
        "student.patch_px=5",
        "student.drop_path=1.0",
        "student.dropout=-0.1",
        "train.epochs=0",
        "train.global_batch_size=0",
        "train.validate_every_epochs=0",
        "train.log_every_steps=0",
        "train.checkpoint_every_steps=-1",
        "train.workers=-1",
        "optimiser.lr=0",
        "optimiser.lr=nan",
        "optimiser.lr=inf",
        "optimiser.weight_decay=-1",
        "optimiser.betas=[0.9, 1.0]",
        "optimiser.warmup_epochs=-0.5",
        "optimiser.final_lr_ratio=1.5",
        "optimiser.clip_grad_norm=-1",
        "augment.crop_padding_px=-1",
        "augment.min_crop_area=0",
        "augment.flip=2",
        "losses.mse=-1",
        "losses.mse=inf",
        "losses={mse = 0}",
        "demo.runs=[{name = '../out', losses = {mse = 1}}]",
        "demo.runs=[{name = 'a', losses = {mse = 1}}, {name = 'a', losses = {mse = 2}}]",
        "demo.runs=[{name = 'a', losses = {mse = 0}}]",
    ],
)
def test_a_value_out_of_range_names_its_key(change: str) -> None:
    key = change.partition("=")[0]
    with pytest.raises(ConfigError, match=f"^{key}.*: expected .*, got ") as caught:
        load_config(sets=[change])
    assert "\n" not in str(caught.value)


def test_options_of_a_loss_that_nothing_uses_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean loss_options.class_contrastive"):
        load_config(sets=["loss_options.clas_contrastive.temperature=0.1"])
    assert load_config(sets=["loss_options.sample_contrastive.temperature=0.1"]).loss_options, "a demo run uses it"


def test_a_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().train.epochs = 3  # type: ignore[misc]


def test_json_gives_an_equal_config_back() -> None:
    config = load_config(
        sets=["train.workers=2", "precompute.outputs=['cls']", "loss_options.mse.output=cls", "losses.mse=1"]
    )
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ([], True),
        (["augment.crop_padding_px=0", "augment.flip=0"], False),
        (["augment.crop_padding_px=0", "augment.flip=0.1"], True),
        (["augment.crop_padding_px=0", "augment.flip=0", "augment.min_crop_area=0.9"], True),
    ],
)
def test_augmentation_says_whether_it_moves_pixels(change: list[str], moves: bool) -> None:
    assert load_config(sets=change).augment.moves_pixels is moves


@pytest.mark.parametrize(
    "change",
    [
        "train.targets=elsewhere.zarr",
        "data.shards=there",
        "train.out=moved",
        "train.workers=3",
        "train.device=cpu",
        "train.log_every_steps=10",
        "train.logs=['mlflow']",
        "train.checkpoint_every_steps=10",
        "losses.cosine=0",
        "loss_options.sample_contrastive.temperature=0.2",
        "precompute.batch_size=8",
        "demo.runs=[]",
    ],
)
def test_what_does_not_change_the_weights_is_free_on_resume(change: str) -> None:
    assert load_config(sets=[change]).training_facts() == load_config().training_facts()


@pytest.mark.parametrize(
    "change",
    [
        "train.epochs=31",
        "train.seed=1",
        "train.precision=float32",
        "train.global_batch_size=32",
        "student.name=vit-base",
        "student.patch_px=8",
        "optimiser.lr=2e-3",
        "augment.flip=0",
        "losses.mse=1",
        "losses.cross_entropy=0.4",
        "losses.cross_entropy=0",
        "loss_options.mse.standardise=false",
    ],
)
def test_what_changes_the_weights_is_seen_on_resume(change: str) -> None:
    assert load_config(sets=[change]).training_facts() != load_config().training_facts()


def test_a_demo_run_differs_in_its_losses_alone() -> None:
    config = Config()
    for run in config.demo.runs:
        made = config.for_demo_run(run)
        assert made.losses == run.losses
        assert made.train.allow_view_mismatch is run.allow_view_mismatch
        assert replace(made, losses=config.losses, train=config.train) == config


def test_a_permission_for_all_runs_is_kept() -> None:
    config = load_config(sets=["train.allow_view_mismatch=true"])
    assert all(config.for_demo_run(run).train.allow_view_mismatch for run in config.demo.runs)


def test_facts_are_flat_and_plain() -> None:
    def plain(value: Any) -> bool:
        return not isinstance(value, dict)

    assert all(plain(value) for value in Config().training_facts().values())
