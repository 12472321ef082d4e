"""Where the data has no validation split, a part of each class is held out, the same wherever it is asked for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from embedkd.config import Config
from embedkd.errors import JoinError
from embedkd.evaluation import evaluate_run
from embedkd.join import Samples
from embedkd.progress import Silent
from embedkd.records import Shard
from embedkd.training import train
from embedkd.training.data import open_data, rows_of_split
from embedkd.training.terms import build_terms
from tests.training.conftest import ROWS

ConfigOf = Callable[..., Config]
Maker = Callable[..., Path]


class Lines(Silent):
    """What a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def alone(tmp_path: Path, make_data: Callable[..., tuple[Shard, ...]], make_store: Maker) -> Path:
    return make_store(tmp_path, make_data(tmp_path / "data", ("train", "test")))


def keys_of(samples: Samples | None) -> set[str]:
    assert samples is not None
    reader = samples.reader()
    return {reader.read(at, n).key for at, count in enumerate(samples.counts) for n in range(count)}


def test_a_run_chooses_its_student_by_what_it_has_not_learnt_from(config_of: ConfigOf, alone: Path) -> None:
    lines = Lines()
    config = config_of(f"train.targets={alone}", "train.val_fraction=0.2", "train.epochs=2")
    result = train(config, progress=lines)
    assert result.train_rows == 18
    assert result.val_top1 is not None
    said = "\n".join(lines.said)
    assert "note: there is no validation split: 4 of 22 training samples are held out" in said
    assert "note: class sets and heads are as the store has them" in said
    found = evaluate_run(Path(config.train.out), split="val")
    assert found["rows"] == 4
    assert found["metrics"]["top1"]["value"] == pytest.approx(result.val_top1)


def test_the_same_samples_are_held_out_whatever_is_read(config_of: ConfigOf, alone: Path) -> None:
    sets = (f"train.targets={alone}", "augment.flip=0", "train.val_fraction=0.3")
    config = config_of("losses={mse=1}", *sets)
    found = open_data(config, build_terms(config.losses, {}))
    bare = open_data(config, ())
    shards = config_of(
        "losses={cross_entropy=1}", "train.targets=none", f"data.shards={alone.parent / 'data'}", *sets[2:]
    )
    plain = open_data(shards, build_terms(shards.losses, {}))
    joined, _ = rows_of_split(config, "val", lambda view: ["logits", "pooled"])
    held = keys_of(found.val)
    assert held == keys_of(bare.val) == keys_of(plain.val) == keys_of(joined)
    assert len(held) == 6  # of 8, 7 and 7 samples a class
    assert {int(key[-3:]) % 3 for key in held} == {0, 1, 2}
    for one in (found, bare, plain):
        assert keys_of(one.train) | held == {f"train-{n:03d}" for n in range(22)}
        assert not keys_of(one.train) & held
    assert [target.name for target in found.train.targets] == ["pooled"]
    other = open_data(config_of("losses={mse=1}", *sets, "train.seed=1"), ())
    assert keys_of(other.val) != held


def test_too_little_to_hold_any_out_is_told(
    config_of: ConfigOf,
    tmp_path: Path,
    make_data: Callable[..., tuple[Shard, ...]],
    make_store: Maker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ROWS, "train", 3)
    store = make_store(tmp_path, make_data(tmp_path / "data", ("train",)))
    config = config_of(f"train.targets={store}")
    with pytest.raises(
        JoinError, match=r"got 3 samples; add shards named val, or hold none out with --set train.val_fra"
    ):
        open_data(config, build_terms(config.losses, {}))
    assert open_data(config_of(f"train.targets={store}", "train.val_fraction=0"), ()).val is None


def test_data_without_labels_has_nothing_to_choose_by(
    config_of: ConfigOf, tmp_path: Path, make_data: Callable[..., tuple[Shard, ...]], make_store: Maker
) -> None:
    store = make_store(
        tmp_path, make_data(tmp_path / "data", ("train", "val"), labelled=False), labelled=False, mean_of=()
    )
    config = config_of(f"train.targets={store}", "losses={mse=1}", "augment.flip=0")
    found = open_data(config, build_terms(config.losses, {}))
    assert (found.val, found.train.rows) == (None, 22)
    assert found.notes == ("there are no labels to choose a student by, or to test it on",)
