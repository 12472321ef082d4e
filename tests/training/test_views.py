"""Training on stored views: the student sees the very part of an image that its target is of."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from embedkd.config import Config
from embedkd.errors import ConfigError, JoinError, TrainingError
from embedkd.records import OutputSpec, Shard, ViewSpec
from embedkd.sources.images import decode_image
from embedkd.sources.views import crop_view
from embedkd.store import open_store
from embedkd.training import train
from embedkd.training.augment import Augment
from embedkd.training.plan import Plan
from tests.training.conftest import SPEC, add_teacher

ConfigOf = Callable[..., Config]
VIEWS = tuple(ViewSpec(0, index, 0.35, 0.5) for index in range(3))
STILL = ("augment.flip=0", "augment.crop_padding_px=0")


@pytest.fixture
def viewed(tmp_path: Path, make_data: Callable[..., tuple[Shard, ...]], make_store: Callable[..., Path]) -> Path:
    """A store with the plain rows and three views of them, whose rows tell their number."""
    store = make_store(tmp_path, make_data(tmp_path / "data"))
    for view in VIEWS:
        add_teacher(store, replace(SPEC, view=view), shift=10.0 * (1 + view.index), outputs=("pooled",))
    return store


def plan_of(config: Config) -> Plan:
    return Plan.of(config)


def test_student_and_target_have_one_view(config_of: ConfigOf, viewed: Path) -> None:
    plan = plan_of(config_of(f"train.targets={viewed}", "losses={mse=1}", *STILL))
    assert plan.view_mismatch == ()
    assert plan.data.train.views == VIEWS
    _, card = plan.build()
    batches = list(plan.training_batches(card, 0))
    squashed = Augment(plan.config.augment, image_px=card.image_px, mean=card.mean, std=card.std, squash=True)
    reader = plan.data.train.reader()
    images = {one.key: one.image for one in reader.read_all([(0, n) for n in range(22)])}
    seen = set()
    for batch in batches:
        number = int(batch.targets["pooled"][0, 0] // 10) - 1
        seen.add(number)
        for at, key in enumerate(batch.keys):
            image = decode_image(images[key], plan.data.train.policy)
            part = crop_view(image, VIEWS[number], key)
            assert torch.equal(batch.pixels[at], squashed(part, 0))
    assert seen == {0, 1, 2}, "three epochs have each view once"


def test_a_run_on_views_says_so_in_its_identity(config_of: ConfigOf, viewed: Path) -> None:
    sets = (f"train.targets={viewed}", "losses={mse=1}", *STILL)
    viewed_plan, plain = plan_of(config_of(*sets)), plan_of(config_of(*sets, "train.views=0"))
    assert set(viewed_plan.data.identity) - set(plain.data.identity) == {"views"}
    assert plain.data.train.views == ()
    assert plan_of(config_of(*sets, "train.views=2")).data.train.views == VIEWS[:2]
    assert train(config_of(*sets, "train.epochs=1")).view_mismatch == []


def test_augmentation_that_moves_pixels_again_is_a_mismatch(config_of: ConfigOf, viewed: Path) -> None:
    sets = (f"train.targets={viewed}", "losses={mse=1}", "augment.crop_padding_px=0")
    with pytest.raises(ConfigError) as refused:
        plan_of(config_of(*sets))
    first, second = str(refused.value).splitlines()
    assert first == (
        "mse compares each sample with what the teacher said of stored views, which are cropped and flipped already, "
        "but augment.* crops or flips what the student sees"
    )
    assert second.startswith("allow that with --allow-view-mismatch, or set augment.crop_padding_px=0")
    assert plan_of(config_of(*sets, "train.allow_view_mismatch=true")).view_mismatch == ("mse",)


def test_class_means_need_no_view(config_of: ConfigOf, viewed: Path) -> None:
    plan = plan_of(config_of(f"train.targets={viewed}"))
    assert (plan.view_mismatch, plan.data.train.views) == ((), ())


def test_views_that_are_not_there_are_told(config_of: ConfigOf, viewed: Path) -> None:
    sets = (f"train.targets={viewed}", *STILL)
    with pytest.raises(ConfigError, match=r"train.views: expected at most 3, the stored views of test:mean-colour"):
        plan_of(config_of(*sets, "losses={mse=1}", "train.views=5"))
    with pytest.raises(TrainingError, match="the stored views of test:mean-colour have no logits; precompute them"):
        plan_of(config_of(*sets, "losses={kl=1}"))
    assert plan_of(config_of(*sets, "losses={kl=1}", "train.views=0")).data.train.views == ()


def test_a_teacher_with_views_does_not_meet_one_without(config_of: ConfigOf, viewed: Path) -> None:
    add_teacher(viewed, replace(SPEC, name="test:other", model="other", outputs=(OutputSpec("pooled", 5),)), shift=1.0)
    entries = [f"{viewed}#{name}" for name in ("test:mean-colour", "test:other")]
    sets = (f"train.targets={entries}".replace("'", '"'), "losses={mse=1}", *STILL)
    with pytest.raises(JoinError, match=r"got 3 \(seed 0, crops from 0.35 of the area\) of test:mean-colour and no"):
        plan_of(config_of(*sets))
    assert plan_of(config_of(*sets, "train.views=0")).data.train.rows == 22


def test_moments_are_those_of_the_first_view(config_of: ConfigOf, viewed: Path) -> None:
    sets = (f"train.targets={viewed}", "losses={mse=1}", "loss_options.mse.standardise=true", *STILL)
    centre = plan_of(config_of(*sets)).data.targets["mse"].centre
    assert centre is not None
    assert 10 < float(centre[0]) < 11
    assert open_store(viewed).teacher().spec.view is None


def test_held_out_samples_are_judged_by_whole_images(
    config_of: ConfigOf, tmp_path: Path, make_data: Callable[..., tuple[Shard, ...]], make_store: Callable[..., Path]
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data", ("train", "test")))
    add_teacher(store, replace(SPEC, view=VIEWS[0]), shift=1.0, outputs=("pooled",))
    plan = plan_of(config_of(f"train.targets={store}", "losses={mse=1}", "train.val_fraction=0.3", *STILL))
    assert plan.data.train.views == VIEWS[:1]
    assert plan.data.val is not None
    assert plan.data.val.views == ()


def test_a_view_is_no_teacher_to_be_named(config_of: ConfigOf, viewed: Path) -> None:
    name = replace(SPEC, view=VIEWS[1]).teacher_id
    with pytest.raises(ConfigError, match="names a stored view of test:mean-colour; name that teacher"):
        plan_of(config_of(f"train.targets={viewed}#{name}", "losses={mse=1}", *STILL))
