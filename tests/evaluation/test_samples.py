from collections.abc import Callable
from pathlib import Path

import pytest

from embedkd.errors import JoinError, ShardError, TrainingError
from embedkd.evaluation.samples import choose, own_splits, shard_splits
from embedkd.rundir import RunDir


@pytest.mark.parametrize("name", ["stored", "plain"])
def test_a_run_has_the_splits_it_was_trained_beside(home: Path, name: str) -> None:
    splits = own_splits(RunDir(home / name).read_config())
    assert {split: samples.rows for split, samples in splits.items()} == {"train": 20, "val": 7, "test": 11}
    assert all(not samples.targets for samples in splits.values()), "no targets are read"


def test_shards_have_the_splits_of_their_index(make_data: Callable[..., Path]) -> None:
    splits = shard_splits(str(make_data({"test": 4})), ["ant", "bee", "cat"])
    assert {split: samples.rows for split, samples in splits.items()} == {"test": 4}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["ant", "cat", "bee"], "label 1 is 'cat' in .* learnt it as 'bee'"),
        (["ant", "bee"], "2 classes, the student knows 3"),
    ],
)
def test_other_classes_are_refused(make_data: Callable[..., Path], names: list[str], said: str) -> None:
    with pytest.raises(JoinError, match=said):
        shard_splits(str(make_data({"test": 1}, names)), ["ant", "bee", "cat"])


def test_shards_or_students_without_class_names_are_believed(make_data: Callable[..., Path]) -> None:
    folder = make_data({"test": 4})
    assert "test" in shard_splits(str(folder), None)
    (folder / "index.json").unlink()
    assert "test" in shard_splits(str(folder), ["other"])


def test_no_such_shards(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no shards match"):
        shard_splits(str(tmp_path / "none-*.tar"), None)


def test_a_split_that_is_not_there_is_named_beside_those_that_are(make_data: Callable[..., Path]) -> None:
    splits = shard_splits(str(make_data({"train": 3, "val": 3})), None)
    assert choose(splits, "val", "other").rows == 3
    with pytest.raises(TrainingError, match="split test, other has train and val"):
        choose(splits, "test", "other")
    with pytest.raises(TrainingError, match="no samples at all"):
        choose({}, "test", "other")
