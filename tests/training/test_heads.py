"""A head speaks for the teacher that it is on, in losses on logits; nobody has to name both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from embedkd.config import AverageConfig, Config
from embedkd.config.tuning import HeadConfig
from embedkd.errors import ConfigError, Interrupted, JoinError, TrainingError
from embedkd.evaluation import Measures, evaluate_run
from embedkd.heads import make_head
from embedkd.records import Shard
from embedkd.report.notes import notes
from embedkd.report.runs import read_runs
from embedkd.rundir import RunDir
from embedkd.store import open_store
from embedkd.training import train
from embedkd.training.data import TrainingData, open_data
from embedkd.training.dropping import TeacherDropping
from embedkd.training.preview import preview
from embedkd.training.terms import build_terms
from tests.training.conftest import SPEC, add_teacher
from tests.training.test_recipes import StopAt
from tests.training.test_several import OTHER, STILL, shards_of

ConfigOf = Callable[..., Config]
MakeStore = Callable[..., Path]
MakeData = Callable[..., tuple[Shard, ...]]
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


def head(
    path: Path,
    *,
    teacher: str | None = None,
    output: str | None = None,
    name: str | None = None,
    l2: float | None = None,
) -> None:
    config = HeadConfig(store=str(path), folds=2, device="cpu", teacher=teacher, output=output, name=name, l2=l2)
    make_head(config, AverageConfig())


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
    assert {"top1", "teacher_top1"} <= set(found["metrics"])
    with pytest.raises(ConfigError, match=r"has 2 teachers.*name one with --teacher"):
        train(config_of(f"train.targets={store}", *sets, out="again"))


def test_only_teachers_of_such_a_loss_need_a_head(config_of: ConfigOf, store: Path) -> None:
    add_teacher(store, OTHER, shift=0.5)
    head(store, teacher=OTHER.name)
    head(store, teacher=OTHER.name, name="strict", l2=1.0)  # two: nobody could say which
    targets = f'train.targets=["{store}#{SPEC.name}", "{store}#{OTHER.name}"]'
    for sets in (("losses={mse=1}",), (LOSSES, "train.teacher_weights={vit-l-32=0}")):
        opened(config_of(targets, *sets, *STILL))
    with pytest.raises(ConfigError, match=r"has 2 .*store.zarr#HEAD"):
        opened(config_of(targets, LOSSES, *STILL))


def test_what_names_a_teacher_that_a_head_speaks_for_is_refused(config_of: ConfigOf, store: Path) -> None:
    target = f"train.targets={store}"
    with pytest.raises(ConfigError, match=r"loss_options.kl@mean-colour: expected one of .*\(mean-colour-linear\)"):
        opened(config_of(target, LOSSES, "loss_options={'kl@mean-colour'={temperature=7}}", *STILL))
    both = f'train.targets=["{store}#{SPEC.name}", "{store}#{SPEC.name}+linear"]'
    with pytest.raises(ConfigError, match=r"losses.kl@mean-colour: .* has a head; name kl@mean-colour-linear"):
        opened(config_of(both, "losses={'kl@mean-colour'=1}", *STILL))


def test_a_head_is_dropped_with_its_teacher(config_of: ConfigOf, store: Path) -> None:
    add_teacher(store, OTHER, shift=0.5)
    found = opened(
        config_of(f'train.targets=["{store}#{SPEC.name}", "{store}#{OTHER.name}"]', "losses={mse=1}", *STILL)
    )
    bases = {HEAD: "mean-colour"}
    terms = (*found.terms, *build_terms({f"kl@{HEAD}": 1.0}, {}))
    made = TeacherDropping.of(terms, 0.5, 0, bases)
    assert made is not None
    assert made.teachers == {"mean-colour": ("mse@mean-colour", f"kl@{HEAD}"), "vit-l-32": ("mse@vit-l-32",)}
    alone = build_terms({"mse@mean-colour": 1.0, f"kl@{HEAD}": 1.0}, {})
    assert TeacherDropping.of(alone, 0.5, 0, bases) is None


def test_an_average_names_the_teachers_that_speak(config_of: ConfigOf, store: Path) -> None:
    sets = ("losses={kl=1}", "loss_options={kl={ensemble=true}}", *STILL)
    assert opened(config_of(f"train.targets={store}", *sets)).teacher_name == "test:mean-colour+linear"


def test_without_class_names_labels_tell_which_logits_are_of_the_classes(
    config_of: ConfigOf, data: Path, tmp_path: Path, make_store: MakeStore
) -> None:
    (tmp_path / "data").symlink_to(data / "data")
    outputs = tuple(replace(one, dim=2) if one.name == "logits" else one for one in SPEC.outputs)
    path = make_store(tmp_path, shards_of(data), spec=replace(SPEC, outputs=outputs), classes=None)
    head(path, output="pooled")
    assert facts(opened(config_of(f"train.targets={path}", LOSSES, *STILL)))["kl"] == (2.0, HEAD, "logits")


def test_the_same_command_goes_on_when_the_store_has_got_another_head(config_of: ConfigOf, store: Path) -> None:
    whole, sets = config_of(f"train.targets={store}", LOSSES, *STILL, out="whole"), (LOSSES, *STILL)
    train(whole)
    config = config_of(f"train.targets={store}", *sets)
    with pytest.raises(Interrupted):
        train(replace(config, train=replace(config.train, checkpoint_every_steps=1)), progress=StopAt(2))
    head(store, name="strict", l2=1.0)
    assert len(preview(config, resume=True).losses) == 3, "and so does its plan"
    train(config, resume=True)
    assert RunDir(Path(config.train.out)).weights.read_bytes() == RunDir(Path(whole.train.out)).weights.read_bytes()


def test_only_what_was_held_out_is_said_to_be(
    config_of: ConfigOf, tmp_path: Path, make_data: MakeData, make_store: MakeStore
) -> None:
    path = make_store(
        tmp_path, make_data(tmp_path / "data"), outputs=("pooled",), unlabelled=(0,), partly=("test",), mean_of=()
    )
    head(path)
    found = opened(config_of(f"train.targets={path}", LOSSES, *STILL))
    assert found.notes == ("1 test samples are left out: without a label",)


def test_an_interrupted_head_is_named_where_rows_are_missing(config_of: ConfigOf, store: Path) -> None:
    derived = next(folder for folder in (store / "teachers").iterdir() if "linear" in folder.name)
    (commit,) = (path for path in derived.glob("*/commits/*") if path.stem == "0")
    commit.unlink()
    with pytest.raises(JoinError, match=r"run embedkd precompute, and then embedkd head, to its end"):
        opened(config_of(f"train.targets={store}", LOSSES, *STILL))


def test_a_report_of_such_a_run_says_nothing_that_is_not_so(config_of: ConfigOf, store: Path) -> None:
    config = config_of(f"train.targets={store}", LOSSES, "train.epochs=1", *STILL)
    train(config)
    evaluate_run(Path(config.train.out), measures=Measures(knn=False, agreement=True), device="cpu")
    (run,) = read_runs([Path(config.train.out)])
    assert not [note for note in notes([run]) if "evaluated on" in note]
    assert run.evaluation is not None
    measured = set(run.evaluation.metrics)
    assert {"agreement", "teacher_top1"} <= measured, "a head is no second teacher"
