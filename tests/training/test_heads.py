"""A head speaks for the teacher that it is on, in losses on logits; nobody has to name both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from embedkd.config import AverageConfig, Config
from embedkd.config.tuning import HeadConfig
from embedkd.errors import ConfigError, TrainingError
from embedkd.evaluation import Measures, evaluate_run
from embedkd.heads import make_head
from embedkd.rundir import RunDir
from embedkd.store import open_store
from embedkd.training import train
from embedkd.training.data import TrainingData, open_data
from embedkd.training.terms import build_terms
from tests.training.conftest import SPEC, add_teacher
from tests.training.test_several import OTHER, STILL, shards_of

ConfigOf = Callable[..., Config]
MakeStore = Callable[..., Path]
LOSSES = "losses={cross_entropy=1, kl=2, mse=4}"
HEAD = "mean-colour-linear"


def opened(config: Config) -> TrainingData:
    return open_data(config, build_terms(config.losses, config.loss_options))


@pytest.fixture
def store(data: Path, tmp_path: Path, make_store: MakeStore) -> Path:
    """Rows of one teacher, and a head on them."""
    (tmp_path / "data").symlink_to(data / "data")
    path = make_store(tmp_path, shards_of(data), outputs=("pooled",))
    head(path)
    return path


def head(path: Path, **options: object) -> None:
    make_head(HeadConfig(store=str(path), folds=2, device="cpu", **options), AverageConfig())  # type: ignore[arg-type]


def facts(data: TrainingData) -> dict[str, tuple[float, str | None, str | None]]:
    return {
        term.name: (term.weight, term.teacher, data.targets[term.name].output if term.name in data.targets else None)
        for term in data.terms
    }


def test_the_head_of_the_store_gives_the_logits(config_of: ConfigOf, store: Path) -> None:
    found = opened(config_of(f"train.targets={store}", LOSSES, *STILL))
    assert facts(found) == {
        "cross_entropy": (1.0, None, None),
        "kl": (2.0, HEAD, "logits"),
        "mse": (4.0, "mean-colour", "pooled"),
    }
    assert {target.name for target in found.train.targets} == {f"{HEAD}:logits", "mean-colour:pooled"}
    assert found.teacher_name == "test:mean-colour, test:mean-colour+linear"


def test_naming_both_is_the_same(config_of: ConfigOf, store: Path) -> None:
    named = [f"{store}#test:mean-colour+linear", f"{store}#test:mean-colour"]
    both = opened(config_of(f"train.targets={named}".replace("'", '"'), LOSSES, *STILL))
    alone = opened(config_of(f"train.targets={store}", LOSSES, *STILL))
    assert facts(both) == facts(alone)


def test_no_head_is_read_where_no_loss_is_on_logits(config_of: ConfigOf, store: Path) -> None:
    found = opened(config_of(f"train.targets={store}", "losses={cross_entropy=1, mse=4}", *STILL))
    assert [teacher.name for teacher in found.teachers] == ["mean-colour"]


def test_a_teacher_with_logits_of_its_own_speaks_for_itself(
    config_of: ConfigOf, data: Path, tmp_path: Path, make_store: MakeStore
) -> None:
    (tmp_path / "data").symlink_to(data / "data")
    path = make_store(tmp_path, shards_of(data))
    head(path, output="pooled")
    found = opened(config_of(f"train.targets={path}", LOSSES, *STILL))
    assert [teacher.view.spec.name for teacher in found.teachers] == [SPEC.name]


def test_a_head_speaks_for_a_teacher_whose_logits_are_of_other_classes(
    config_of: ConfigOf, data: Path, tmp_path: Path, make_store: MakeStore
) -> None:
    (tmp_path / "data").symlink_to(data / "data")
    outputs = tuple(replace(one, dim=2) if one.name == "logits" else one for one in SPEC.outputs)
    path = make_store(tmp_path, shards_of(data), spec=replace(SPEC, outputs=outputs))
    config = config_of(f"train.targets={path}", LOSSES, *STILL)
    with pytest.raises(TrainingError, match=r"logits are of 2 classes, the data has 3\nfit a head"):
        train(config)
    head(path, output="pooled")
    assert facts(opened(config))["kl"] == (2.0, HEAD, "logits")


def test_one_of_several_heads_must_be_named(config_of: ConfigOf, store: Path) -> None:
    head(store, name="strict", l2=1.0)
    sets = (LOSSES, *STILL)
    with pytest.raises(ConfigError, match=r"need one head on test:mean-colour, .* has 2 .*store.zarr#HEAD"):
        opened(config_of(f"train.targets={store}", *sets))
    named = f'["{store}", "{store}#test:mean-colour+strict"]'
    assert facts(opened(config_of(f"train.targets={named}", *sets)))["kl"][1] == "mean-colour-strict"


def test_without_a_head_it_is_said_how_to_get_one(
    config_of: ConfigOf, data: Path, tmp_path: Path, make_store: MakeStore
) -> None:
    (tmp_path / "data").symlink_to(data / "data")
    path = make_store(tmp_path, shards_of(data), outputs=("pooled",))
    with pytest.raises(TrainingError, match="embedkd head"):
        opened(config_of(f"train.targets={path}", LOSSES, *STILL))


def test_weights_of_teachers_are_those_of_their_heads(config_of: ConfigOf, store: Path) -> None:
    add_teacher(store, OTHER, shift=0.5)
    head(store, teacher=OTHER.name)
    targets = f'["{store}#{SPEC.name}", "{store}#{OTHER.name}"]'
    sets = (f"train.targets={targets}", LOSSES, *STILL)
    found = facts(opened(config_of(*sets, "train.teacher_weights={mean-colour=3}")))
    assert found["kl@mean-colour-linear"][0] == pytest.approx(1.5)
    assert found["mse@vit-l-32"][0] == pytest.approx(1.0)
    assert len(found) == 5, "no loss compares logits with a teacher that a head speaks for"
    with pytest.raises(ConfigError, match=r"train.teacher_weights: expected one above 0 for kl, got 0"):
        opened(config_of(*sets, f"train.teacher_weights={{{HEAD}=0, vit-l-32-linear=0}}"))


@pytest.mark.parametrize("ensemble", [False, True])
def test_a_run_finds_its_teachers_again_when_the_store_has_got_others(
    config_of: ConfigOf, store: Path, ensemble: bool
) -> None:
    sets = (LOSSES, "train.epochs=1", f"loss_options={{kl={{ensemble={str(ensemble).lower()}}}}}", *STILL)
    config = config_of(f"train.targets={store}", *sets)
    assert train(config).losses == {"cross_entropy": 1.0, "kl": 2.0, "mse": 4.0}
    run = RunDir(Path(config.train.out))
    ids = [name for name, spec in open_store(store).teachers.items() if spec.name.startswith("test:mean-colour")]
    assert set(run.read_config().train.targets) == {f"{store}#{name}" for name in ids}
    add_teacher(store, OTHER, shift=0.5)
    found = evaluate_run(run.path, measures=Measures(knn=False, agreement=True), device="cpu")
    assert {"top1", "teacher_top1@mean-colour"} <= set(found["metrics"])
    with pytest.raises(ConfigError, match=r"has 2 teachers.*name one with --teacher"):
        train(config_of(f"train.targets={store}", *sets, out="again"))
