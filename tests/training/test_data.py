import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from embedkd.config import Config
from embedkd.errors import (
    CheckpointError,
    EmbedKDError,
    HoleError,
    JoinError,
    TrainingError,
    UnknownNameError,
)
from embedkd.records import Shard
from embedkd.store import average, open_store, write_class_set
from embedkd.training import train
from embedkd.training.data import TrainingData, open_data
from embedkd.training.terms import build_terms
from tests.training.conftest import ROWS, SPEC

ConfigOf = Callable[..., Config]
MakeData = Callable[..., tuple[Shard, ...]]
MakeStore = Callable[..., Path]
SUPERVISED = "losses={cross_entropy=1}"


def opened(config: Config) -> TrainingData:
    return open_data(config, build_terms(config.losses, config.loss_options))


def names(found: TrainingData) -> tuple[str, ...]:
    return tuple(target.name for target in found.train.targets)


def test_a_store_gives_splits_classes_and_teacher(config_of: ConfigOf, data: Path) -> None:
    found = opened(config_of())
    assert found.val is not None
    assert found.test is not None
    assert (found.train.rows, found.val.rows, found.test.rows) == (22, 9, 9)
    assert (found.num_classes, found.class_names) == (3, ("red", "green", "blue"))
    assert found.teacher_name == "test:mean-colour"
    means = open_store(data / "store.zarr").teacher().class_set(None, "pooled").mean
    assert set(found.targets) == {"class_contrastive"}
    assert torch.equal(found.targets["class_contrastive"].classes, torch.tensor(means))  # type: ignore[arg-type]


def test_nothing_is_joined_that_no_loss_reads(config_of: ConfigOf) -> None:
    assert names(opened(config_of())) == ()
    assert names(opened(config_of("losses={mse=1}"))) == ("pooled",)
    supervised = opened(config_of(SUPERVISED))
    assert (names(supervised), supervised.teacher_name) == ((), None)
    assert set(supervised.identity) == {"training split", "validation split"}


def test_each_loss_may_read_an_output_of_its_own(config_of: ConfigOf) -> None:
    found = opened(config_of("losses={mse=1, cosine=1}", "loss_options.mse.output=logits"))
    assert names(found) == ("logits", "pooled")
    assert {name: (one.output, one.dim) for name, one in found.targets.items()} == {
        "mse": ("logits", 3),
        "cosine": ("pooled", 5),
    }


def test_an_output_that_the_store_lacks_is_named(config_of: ConfigOf) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown output of test:mean-colour in .*store.zarr 'poled'; did you mean pooled"
    ):
        opened(config_of("losses={mse=1}", "loss_options.mse.output=poled"))


def test_a_store_whose_teacher_was_interrupted_at_once_is_named(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data"), mean_of=())
    for folder in (store / "teachers").glob("*/pass-*"):
        shutil.rmtree(folder)
    with pytest.raises(TrainingError, match="holds nothing of test:mean-colour yet; run embedkd precompute"):
        opened(config_of(f"train.targets={store}"))


def test_class_means_that_the_store_lacks_are_named(config_of: ConfigOf) -> None:
    with pytest.raises(HoleError, match="no class set of logits; make one with embedkd average"):
        opened(config_of("loss_options.class_contrastive.output=logits"))
    with pytest.raises(UnknownNameError, match="class set of pooled 'n99-seed0'; did you mean n100-seed0"):
        opened(config_of("train.class_set=n99-seed0"))


def test_without_store_and_shards_there_is_nothing_to_learn(config_of: ConfigOf) -> None:
    with pytest.raises(TrainingError, match="name a store with --targets, or shards with --data"):
        opened(config_of("train.targets=none"))


def test_plain_shards_will_do_for_a_supervised_student(config_of: ConfigOf, data: Path) -> None:
    changes = ("train.targets=none", f"data.shards={data / 'data'}", "train.epochs=1")
    plain, stored = train(config_of(SUPERVISED, *changes, out="plain")), train(config_of(SUPERVISED, "train.epochs=1"))
    assert (plain.val_top1, plain.test_top1, plain.train_rows) == (stored.val_top1, stored.test_top1, 22)
    with pytest.raises(TrainingError, match=r"losses.class_contrastive compares with a teacher; name its store"):
        train(config_of(*changes, out="other"))


def test_shards_without_class_names_need_a_store(config_of: ConfigOf, tmp_path: Path, make_data: MakeData) -> None:
    make_data(tmp_path / "data")
    (tmp_path / "data" / "index.json").unlink()
    with pytest.raises(TrainingError, match="names no classes; pack it with embedkd pack"):
        opened(config_of(SUPERVISED, "train.targets=none", f"data.shards={tmp_path}/data"))


def test_data_may_lie_elsewhere(config_of: ConfigOf, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "store.zarr", tmp_path / "moved.zarr")
    shutil.copytree(data / "data", tmp_path / "there")
    config = config_of(f"train.targets={tmp_path}/moved.zarr", f"data.shards={tmp_path}/there", "train.epochs=1")
    assert opened(config).identity == opened(config_of()).identity
    train(config)


def test_data_without_validation_split_keeps_the_last_student_where_none_are_held_out(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data", ("train",)))
    result = train(config_of(f"train.targets={store}", "train.epochs=2", "train.val_fraction=0"))
    assert result.train_rows == 22
    assert (result.best_epoch, result.val_top1, result.test_top1, result.test_rows) == (2, None, None, 0)
    assert str(result).startswith("vit-tiny: top-1 not measured after epoch 2 of 2")


def test_data_without_training_split_is_refused(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data", ("val",)), mean_of=())
    with pytest.raises(TrainingError, match="has no training samples"):
        opened(config_of(SUPERVISED, f"train.targets={store}"))


def test_samples_without_target_are_left_out_on_request_only(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data"), bad=(3, 7))
    with pytest.raises(JoinError, match=r"2 of 22 train samples .*--allow-partial"):
        train(config_of(f"train.targets={store}"))
    result = train(config_of(f"train.targets={store}", "train.allow_partial=true", "train.epochs=1"))
    assert result.train_rows == 20
    assert sum(result.left_out.values()) == 2


def test_classes_without_names_are_counted_by_their_labels(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data"), classes=None)
    found = opened(config_of(f"train.targets={store}"))
    assert (found.num_classes, found.class_names) == (3, None)


def test_data_without_labels_is_refused(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore
) -> None:
    shards = make_data(tmp_path / "data", ("train",), labelled=False)
    store = make_store(tmp_path, shards, classes=None, labelled=False, mean_of=())
    with pytest.raises(TrainingError, match="has no labels; a student needs classes"):
        opened(config_of("losses={mse=1}", f"train.targets={store}"))
    with pytest.raises(EmbedKDError, match="label"):
        opened(config_of(SUPERVISED, f"train.targets={store}"))


def test_random_weights_teach_only_where_that_is_meant(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data"), spec=replace(SPEC, random_weights=True))
    with pytest.raises(TrainingError, match=r"the weights of test:mean-colour in .* are random") as caught:
        opened(config_of(f"train.targets={store}"))
    assert str(caught.value).endswith("allow that with --allow-random-teacher")
    assert opened(config_of(f"train.targets={store}", "train.allow_random_teacher=true")).targets
    assert opened(config_of(f"train.targets={store}", SUPERVISED)).teacher_name is None  # nothing of it is used


@pytest.mark.parametrize("part", ["training split", "classes of class_contrastive"])
def test_a_run_does_not_go_on_with_other_data(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore, part: str
) -> None:
    shards = make_data(tmp_path / "data")
    store = make_store(tmp_path, shards)
    changes = ["train.epochs=1", "train.allow_partial=true"]
    train(config_of(f"train.targets={store}", *changes))
    (tmp_path / "run" / "result.json").unlink()
    if part == "training split":
        shutil.rmtree(store)
        make_store(tmp_path, shards, bad=(3,))
    else:
        view = open_store(store).teacher()
        write_class_set(view, "pooled", average(view, "pooled", samples_per_class=2, seed=1))
        changes.append("train.class_set=n2-seed1")
    with pytest.raises(CheckpointError, match=rf"was trained on other data \(changed: .*{part}"):
        train(config_of(f"train.targets={store}", *changes), resume=True)


def test_samples_without_a_label_take_part_where_that_is_asked_for(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data"), unlabelled=range(4, 22))
    sets = (f"train.targets={store}", "losses={cross_entropy=1, mse=1}", "train.allow_view_mismatch=true")
    assert opened(config_of(*sets, "train.allow_partial=true")).train.rows == 4
    every = config_of(*sets, "train.keep_unlabelled=true")
    assert opened(every).train.rows == 22
    assert train(every).train_rows == 22
    with pytest.raises(JoinError, match=r"\(18 without a label\); leave them out"):
        opened(config_of(*sets))


@pytest.mark.parametrize("losses", ["losses={mse=1}", "losses={cross_entropy=1, mse=1}"])
def test_held_out_samples_without_a_label_are_left_out_and_holes_are_not(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore, losses: str
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data"), unlabelled=(0, 5), partly=("val", "test"))
    config = config_of(f"train.targets={store}", losses, "train.allow_view_mismatch=true", "train.epochs=1")
    found = opened(config)
    assert found.train.rows == ROWS["train"]
    assert found.val is not None
    assert found.test is not None
    assert (found.val.rows, found.test.rows) == (ROWS["val"] - 2, ROWS["test"] - 2)
    for split in ("val", "test"):
        assert f"2 {split} samples are left out: without a label" in found.notes
    assert train(config).test_rows == ROWS["test"] - 2


def test_some_labels_are_needed_all_the_same(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data"), unlabelled=range(22), mean_of=())
    sets = (f"train.targets={store}", "losses={cross_entropy=1, mse=1}", "train.keep_unlabelled=true")
    with pytest.raises(TrainingError, match=r"losses.cross_entropy needs labels, no training sample has one"):
        opened(config_of(*sets))
