"""Several teachers in one run: their names, weights, averages of logits, and steps that do without some."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from embedkd.config import Config
from embedkd.errors import ConfigError, EmbedKDError, JoinError, TrainingError, UnknownNameError
from embedkd.losses import kl, mse
from embedkd.records import OutputSpec, Shard, TeacherSpec
from embedkd.rundir import RunDir
from embedkd.store import open_store
from embedkd.students import StudentOutput
from embedkd.training import train
from embedkd.training.data import TrainingData, open_data, rows_of_split
from embedkd.training.dropping import TeacherDropping
from embedkd.training.objective import Objective
from embedkd.training.stores import open_teachers, shares_of
from embedkd.training.terms import build_terms, spread_terms
from tests.training.conftest import SPEC

ConfigOf = Callable[..., Config]
MakeStore = Callable[..., Path]
OTHER = replace(SPEC, name="vit:ViT-L-32@somewhere", model="another")
Options = dict[str, dict[str, object]]
STILL = ("augment.flip=0", "augment.crop_padding_px=0")
SHARES = {"a": 0.75, "b": 0.25}


@pytest.fixture
def beside(data: Path, tmp_path: Path, make_store: MakeStore) -> Callable[..., Path]:
    """One more store of the same shards, of another teacher."""

    def make(name: str, spec: TeacherSpec = OTHER, **options: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "data").symlink_to(data / "data")
        return make_store(folder, shards_of(data), spec=spec, **options)

    return make


def shards_of(data: Path) -> tuple[Shard, ...]:
    return open_store(data / "store.zarr").shards


def opened(config: Config) -> TrainingData:
    return open_data(config, build_terms(config.losses, config.loss_options))


def both(data: Path, other: Path) -> str:
    return f"train.targets={[str(data / 'store.zarr'), str(other)]}".replace("'", '"')


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ANSWER = StudentOutput(drawn(4, 5, seed=1), drawn(4, 3, seed=2))
LABELS = torch.tensor([0, 1, 2, 0])


def test_a_run_learns_from_two_stores(config_of: ConfigOf, data: Path, beside: Callable[..., Path]) -> None:
    changes = ("losses={cross_entropy=0.5, mse=3}", "train.teacher_weights={vit-l-32=2}", "train.epochs=1", *STILL)
    config = config_of(both(data, beside("b")), *changes)
    result = train(config)
    assert result.teacher == "test:mean-colour, vit:ViT-L-32@somewhere"
    assert result.losses == {"cross_entropy": 0.5, "mse@mean-colour": 1.0, "mse@vit-l-32": 2.0}


def test_losses_are_spread_over_teachers_and_their_weight_divided() -> None:
    options: Options = {"mse": {"output": "cls"}, "mse@b": {"output": "pooled"}, "kl": {"ensemble": True}}
    terms = build_terms({"cross_entropy": 0.5, "mse": 4.0, "cosine@a": 1.0, "kl": 2.0}, options)
    spread = {
        term.name: (term.weight, term.teacher, term.compares.output) for term in spread_terms(terms, SHARES, options)
    }
    assert spread == {
        "cross_entropy": (0.5, None, None),
        "mse@a": (3.0, "a", "cls"),
        "mse@b": (1.0, "b", "pooled"),
        "cosine@a": (1.0, "a", None),
        "kl": (2.0, None, None),
    }
    alone = spread_terms(build_terms({"mse": 4.0}, options), {"b": 1.0}, options)
    assert [(t.name, t.weight, t.compares.output) for t in alone] == [("mse", 4.0, "pooled")]
    assert [t.name for t in spread_terms(build_terms({"mse": 4.0}, {}), {"a": 1.0, "b": 0.0}, {})] == ["mse@a"]


def test_teachers_that_are_not_there_are_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown teacher of mse 'c'"):
        spread_terms(build_terms({"mse@c": 1.0}, {}), SHARES, {})
    with pytest.raises(UnknownNameError, match="unknown teacher of mse 'c'"):
        spread_terms(build_terms({"mse": 1.0}, {}), SHARES, {"mse@c": {}})
    with pytest.raises(ConfigError, match="expected mse for all teachers or mse@a, got both"):
        spread_terms(build_terms({"mse": 1.0, "mse@a": 1.0}, {}), SHARES, {})
    with pytest.raises(ConfigError, match=r"losses.cross_entropy@a: expected cross_entropy alone"):
        build_terms({"cross_entropy@a": 1.0}, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl": {"ensemble": True, "fitted": True}}, "expected ensemble = true or fitted = true, got both"),
        ({"kl@a": {"ensemble": True}}, "expected ensemble = true or one teacher, a, got both"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_terms({next(iter(options)): 1.0}, options)


def test_an_average_has_no_options_of_one_teacher() -> None:
    options: Options = {"kl": {"ensemble": True}, "kl@a": {"output": "pooled"}}
    with pytest.raises(ConfigError, match=r"loss_options.kl: expected ensemble = true or kl@a, got both"):
        spread_terms(build_terms({"kl": 1.0}, options), SHARES, options)


def test_weights_of_teachers(data: Path, beside: Callable[..., Path]) -> None:
    teachers = open_teachers([str(data / "store.zarr"), str(beside("b"))], None)
    assert [teacher.name for teacher in teachers] == ["mean-colour", "vit-l-32"]
    assert shares_of(teachers, {}) == {"mean-colour": 0.5, "vit-l-32": 0.5}
    assert shares_of(teachers, {"mean-colour": 3}) == {"mean-colour": 0.75, "vit-l-32": 0.25}
    with pytest.raises(UnknownNameError, match="'vit-l-16'; did you mean vit-l-32"):
        shares_of(teachers, {"vit-l-16": 1})
    with pytest.raises(ConfigError, match="expected a teacher with a weight above 0"):
        shares_of(teachers, {"vit-l-32": 0, "mean-colour": 0})


def test_teachers_of_one_name_are_told_apart_and_one_teacher_is_not_taken_twice(
    data: Path, beside: Callable[..., Path]
) -> None:
    mine, tuned = str(data / "store.zarr"), str(beside("b", replace(SPEC, weights_sha256="1" * 64)))
    names = [teacher.name for teacher in open_teachers([mine, tuned], None)]
    assert len(set(names)) == 2
    assert all(name.startswith("test-mean-colour-") for name in names)
    with pytest.raises(ConfigError, match=r"expected each teacher once, got test:mean-colour in .*store.zarr and"):
        open_teachers([mine, f"{mine}#test:mean-colour"], None)


def test_each_teacher_counts_by_its_share(config_of: ConfigOf, data: Path, beside: Callable[..., Path]) -> None:
    """The whole against what each loss says by itself, in the weights that the config gives."""
    sets = ("losses={mse=2}", "augment.flip=0", "train.teacher_weights={vit-l-32=3}")
    found = opened(config_of(both(data, beside("b")), *sets))
    made = Objective(found.terms, targets=found.targets, student_dim=5, num_classes=3, seed=0)
    rows = {target.name: drawn(4, 5, seed=n) for n, target in enumerate(found.train.targets)}
    assert list(rows) == ["mean-colour:pooled", "vit-l-32:pooled"]
    total, values = made(ANSWER, LABELS, rows)
    one, two = (mse(ANSWER.embedding, rows[name]) for name in rows)
    torch.testing.assert_close(values, {"mse@mean-colour": one, "mse@vit-l-32": two})
    torch.testing.assert_close(total, 2 * (0.25 * one + 0.75 * two))


def test_averaged_logits_are_one_teacher(config_of: ConfigOf, data: Path, beside: Callable[..., Path]) -> None:
    sets = ("losses={kl=1}", "loss_options.kl.ensemble=true", "augment.flip=0", "train.teacher_weights={vit-l-32=3}")
    found = opened(config_of(both(data, beside("b")), *sets))
    made = Objective(found.terms, targets=found.targets, student_dim=5, num_classes=3, seed=0)
    rows = {f"{name}:logits": drawn(4, 3, seed=n) for n, name in enumerate(("mean-colour", "vit-l-32"))}
    total, _ = made(ANSWER, LABELS, rows)
    mean = 0.25 * rows["mean-colour:logits"] + 0.75 * rows["vit-l-32:logits"]
    torch.testing.assert_close(total, kl(ANSWER.logits, mean))
    assert [term.name for term in found.terms] == ["kl"]


def test_a_sum_of_divergences_is_an_average_of_probabilities() -> None:
    """Why there is no other ensemble: without one, kl of each teacher has the gradient of averaged probabilities."""
    logits = ANSWER.logits.clone().requires_grad_()
    one, two = drawn(4, 3, seed=7), drawn(4, 3, seed=8)
    (apart,) = torch.autograd.grad(0.75 * kl(logits, one) + 0.25 * kl(logits, two), logits)
    mean = (0.75 * (one / 4).softmax(1) + 0.25 * (two / 4).softmax(1)).log() * 4
    (together,) = torch.autograd.grad(kl(logits, mean), logits)
    torch.testing.assert_close(apart, together)


def test_logits_of_other_classes_are_not_averaged(config_of: ConfigOf, data: Path, beside: Callable[..., Path]) -> None:
    wide = replace(OTHER, outputs=(OutputSpec("pooled", 5), OutputSpec("logits", 4)))
    other, bare = beside("b", wide), beside("c", wide, outputs=("pooled",))
    sets = ("losses={kl=1}", "loss_options.kl.ensemble=true", "augment.flip=0")
    with pytest.raises(EmbedKDError, match=r"losses.kl compares with logits, vit:ViT-L-32@somewhere in .* has none"):
        opened(config_of(both(data, bare), *sets))
    with pytest.raises(
        TrainingError, match=r"expected logits of the same classes to average, got 3 of mean-colour and 4"
    ):
        opened(config_of(both(data, other), *sets))


def test_stores_that_do_not_cover_the_same_shards_are_refused(
    config_of: ConfigOf, tmp_path: Path, data: Path, make_data: Callable[..., tuple[Shard, ...]], make_store: MakeStore
) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    other = make_store(
        folder, make_data(folder / "data", ("train",), labelled=False), spec=OTHER, labelled=False, mean_of=()
    )
    with pytest.raises(JoinError, match="have no train shard in common; expected stores of the same tars"):
        opened(config_of(both(data, other), "losses={mse=1}", "augment.flip=0"))


def test_what_teachers_say_of_a_split(config_of: ConfigOf, data: Path, beside: Callable[..., Path]) -> None:
    config = config_of(both(data, beside("b")))
    samples, sources = rows_of_split(config, "test", lambda view: ["logits"])
    assert list(sources) == [target.name for target in samples.targets] == ["mean-colour:logits", "vit-l-32:logits"]
    assert samples.rows == 9
    assert {(teacher.view.spec.name, output) for teacher, output in sources.values()} == {
        ("test:mean-colour", "logits"),
        ("vit:ViT-L-32@somewhere", "logits"),
    }


def dropping(teachers: int, probability: float) -> TeacherDropping:
    return TeacherDropping({f"t{n}": (f"mse@t{n}", f"kl@t{n}") for n in range(teachers)}, probability, seed=3)


@pytest.mark.parametrize(("teachers", "probability"), [(2, 0.5), (3, 0.8), (2, 0.01)])
def test_dropping_keeps_one_teacher_and_the_expectation(teachers: int, probability: float) -> None:
    made, steps = dropping(teachers, probability), 4000
    drawn_factors = [made.factors(step) for step in range(1, steps + 1)]
    factors = np.array([[found[f"mse@t{n}"] for n in range(teachers)] for found in drawn_factors])
    assert (factors > 0).any(axis=1).all()
    assert all(found[f"mse@t{n}"] == found[f"kl@t{n}"] for found in drawn_factors for n in range(teachers))
    outcomes = [
        (n, math.comb(teachers, n) * probability ** (teachers - n) * (1 - probability) ** n)
        for n in range(teachers + 1)
    ]
    stays = sum(share * max(n, 1) / teachers for n, share in outcomes)
    assert made.stays == pytest.approx(stays)
    error = 5 * math.sqrt((1 / stays - 1) / steps) + 1e-9
    np.testing.assert_allclose(factors.mean(axis=0), 1.0, atol=error)


def test_which_teachers_are_dropped_is_a_function_of_seed_and_step() -> None:
    made = dropping(2, 0.5)
    assert [made.factors(step) for step in (4, 9, 4)] == [dropping(2, 0.5).factors(step) for step in (4, 9, 4)]
    assert len({tuple(made.factors(step).values()) for step in range(50)}) == 3
    assert [replace(made, seed=4).factors(s) for s in range(50)] != [made.factors(s) for s in range(50)]


def test_nothing_is_dropped_of_one_teacher() -> None:
    terms = build_terms({"cross_entropy": 1.0, "mse": 1.0}, {})
    assert TeacherDropping.of(spread_terms(terms, {"a": 1.0}, {}), 0.5, 0) is None
    assert TeacherDropping.of(spread_terms(terms, SHARES, {}), 0.0, 0) is None
    made = TeacherDropping.of(spread_terms(terms, SHARES, {}), 0.5, 0)
    assert made is not None
    assert made.teachers == {"a": ("mse@a",), "b": ("mse@b",)}


def test_a_dropped_teacher_is_measured_and_teaches_nothing(
    config_of: ConfigOf, data: Path, beside: Callable[..., Path]
) -> None:
    found = opened(config_of(both(data, beside("b")), "losses={cross_entropy=1, mse=1}", "augment.flip=0"))
    made = Objective(found.terms, targets=found.targets, student_dim=4, num_classes=3, seed=0)
    answer = StudentOutput(drawn(4, 4, seed=1), ANSWER.logits)
    rows = {target.name: drawn(4, 5, seed=n) for n, target in enumerate(found.train.targets)}
    total, values = made(answer, LABELS, rows, factors={"mse@mean-colour": 0.0, "mse@vit-l-32": 2.0})
    torch.testing.assert_close(total.detach(), values["cross_entropy"] + values["mse@vit-l-32"])
    assert values["mse@mean-colour"] > 0
    total.backward()
    gradients = {name: parameter.grad for name, parameter in made.named_parameters()}
    assert set(gradients) == {f"losses.mse@{name}.projection.weight" for name in ("mean-colour", "vit-l-32")} | {
        f"losses.mse@{name}.projection.bias" for name in ("mean-colour", "vit-l-32")
    }
    for name, gradient in gradients.items():
        assert gradient is not None
        assert bool(gradient.any()) == ("vit-l-32" in name)


def test_runs_with_dropping_are_alike_and_other_than_without(
    config_of: ConfigOf, data: Path, beside: Callable[..., Path]
) -> None:
    sets = (both(data, beside("b")), "losses={mse=1}", "train.epochs=1", *STILL)
    kept = train(config_of(*sets, out="kept"))
    dropped = [train(config_of(*sets, "train.teacher_drop=0.5", out=out)) for out in ("one", "two")]
    found = [RunDir(Path(config_of(out=out).train.out)).weights.read_bytes() for out in ("kept", "one", "two")]
    assert kept.steps == dropped[0].steps == 3
    assert found[1] == found[2]
    assert found[0] != found[1]
