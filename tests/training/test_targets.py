from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from embedkd.config import Config
from embedkd.errors import TrainingError, UnknownNameError
from embedkd.records import OutputSpec, Shard
from embedkd.store import ClassSet, TeacherView, average, open_store, write_class_set
from embedkd.store.classes import prompts_digest
from embedkd.training.stores import RunTeacher
from embedkd.training.targets import TermTargets, find_targets, identity_of
from embedkd.training.terms import Term, build_terms
from tests.training.conftest import CLASSES, SPEC

ConfigOf = Callable[..., Config]
MakeStore = Callable[..., Path]
CLIP = replace(SPEC, outputs=(*SPEC.outputs, OutputSpec("text", 5)), logit_scale=20.0, logit_bias=-7.0)
PROMPTS = ("a {}",)


@pytest.fixture
def clip(tmp_path: Path, make_data: Callable[..., tuple[Shard, ...]], make_store: MakeStore) -> TeacherView:
    """A teacher that states a scale and a bias; class means of both outputs, and class texts."""
    store = make_store(tmp_path, make_data(tmp_path / "data"), spec=CLIP, mean_of=("pooled", "logits"))
    view = open_store(str(store)).teacher()
    write_class_set(view, "text", texts(view))
    return view


def of_one(view: TeacherView, terms: tuple[Term, ...], config: Config) -> dict[str, TermTargets]:
    return find_targets((RunTeacher("only", view),), terms, config, {"only": 1.0})


def texts(view: TeacherView) -> ClassSet:
    mean, ones = np.arange(15, dtype=np.float32).reshape(3, 5), np.ones(3, dtype=np.int64)
    digest = prompts_digest(PROMPTS, CLASSES)
    return ClassSet("prompts-clip", mean, ones, ones.astype(np.float32), 1, 0, digest, PROMPTS)


@pytest.fixture
def found(clip: TeacherView, config_of: ConfigOf) -> Callable[..., TermTargets]:
    """``found(loss, *sets, option=...)``: what one loss compares with."""

    def find(loss: str, *sets: str, **options: Any) -> TermTargets:
        targets = of_one(clip, build_terms({loss: 1.0}, {loss: options}), config_of(*sets))
        assert list(targets) == [loss]
        return targets[loss]

    return find


def means(view: TeacherView, output: str = "pooled") -> torch.Tensor:
    return torch.tensor(view.class_set("n100-seed0", output).mean)


def test_a_loss_without_a_teacher_compares_with_nothing(clip: TeacherView, config_of: ConfigOf) -> None:
    assert of_one(clip, build_terms({"cross_entropy": 1.0}, {}), config_of()) == {}


def test_outputs_and_widths(found: Callable[..., TermTargets]) -> None:
    said = {name: found(name) for name in ("mse", "kl", "class_contrastive", "similarity_kl", "relational_angle")}
    assert {name: (one.output, one.dim) for name, one in said.items()} == {
        "mse": ("pooled", 5),
        "kl": ("logits", 3),
        "class_contrastive": (None, 5),
        "similarity_kl": ("pooled", 5),
        "relational_angle": ("pooled", 5),
    }
    assert found("mse", output="logits") == TermTargets("logits", 3)


def test_classes_are_means_or_texts(found: Callable[..., TermTargets], clip: TeacherView) -> None:
    text = torch.tensor(texts(clip).mean)
    for loss, options, expected in (
        ("class_contrastive", {}, means(clip)),
        ("class_contrastive", {"output": "text"}, text),
        ("class_contrastive", {"output": "logits"}, means(clip, "logits")),
        ("interactive_contrastive", {}, text),
        ("interactive_contrastive", {"output": "pooled"}, means(clip)),
        ("similarity_kl", {}, text),
        ("similarity_kl", {"classes": "pooled"}, means(clip)),
        ("similarity_kl", {"output": "logits"}, means(clip, "logits")),
    ):
        assert torch.equal(found(loss, **options).classes, expected), (loss, options)  # type: ignore[arg-type]


def test_means_serve_where_there_are_no_texts(data: Path, config_of: ConfigOf) -> None:
    view = open_store(str(data / "store.zarr")).teacher()
    targets = of_one(view, build_terms({"similarity_kl": 1.0}, {}), config_of())
    assert torch.equal(targets["similarity_kl"].classes, means(view))  # type: ignore[arg-type]
    assert targets["similarity_kl"].options == {}, "this teacher states no scale: the loss's own default holds"


def test_another_class_set_by_name(found: Callable[..., TermTargets], clip: TeacherView) -> None:
    few = replace(average(clip, "pooled", samples_per_class=2, seed=3), name="few")
    write_class_set(clip, "pooled", few)
    for one in (
        found("class_contrastive", class_set="few"),
        found("class_contrastive", "train.class_set=few"),
        found("similarity_kl", classes="pooled", class_set="few"),
        found("similarity_kl", class_set="few"),  # which is no set of texts
        found("interactive_contrastive", "train.class_set=few"),
    ):
        assert torch.equal(one.classes, torch.tensor(few.mean))  # type: ignore[arg-type]
    assert torch.equal(found("class_contrastive").classes, means(clip))  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="class set of pooled 'fwe'; did you mean few"):
        found("class_contrastive", class_set="fwe")


def test_what_the_teacher_states_is_passed_on_unless_the_config_says_otherwise(
    found: Callable[..., TermTargets],
) -> None:
    assert found("similarity_kl").options == {"teacher_scale": 20.0}
    assert found("similarity_binary_kl").options == {"teacher_scale": 20.0, "teacher_bias": -7.0}
    assert found("gradient", teacher_scale=5.0).options == {}
    assert found("mse").options == {}


def test_the_centre_is_the_common_mean_of_the_classes(found: Callable[..., TermTargets], clip: TeacherView) -> None:
    """Classes lose their own, rows that of the class means of their own output."""
    centre, text = means(clip).mean(0), torch.tensor(texts(clip).mean)
    alone = found("class_contrastive", centre=True)
    torch.testing.assert_close(alone.classes, means(clip) - centre)
    torch.testing.assert_close(alone.centre, centre)
    assert found("class_contrastive").centre is None
    torch.testing.assert_close(found("mse", centre=True).centre, centre)
    both = found("similarity_kl", centre=True)
    torch.testing.assert_close(both.classes, text - text.mean(0))
    torch.testing.assert_close(both.centre, centre)
    same = found("similarity_kl", classes="pooled", centre=True)
    torch.testing.assert_close(same.classes, means(clip) - centre)
    torch.testing.assert_close(same.centre, centre)


def test_centred_means_are_further_apart(found: Callable[..., TermTargets]) -> None:
    def mutual(classes: torch.Tensor | None) -> float:
        assert classes is not None
        unit = F.normalize(classes)
        return float((unit @ unit.T)[0, 1:].mean())

    assert mutual(found("class_contrastive").classes) > 0.7
    assert mutual(found("class_contrastive", centre=True).classes) == pytest.approx(-0.5, abs=0.1)


def test_spaces_that_do_not_meet_are_told(found: Callable[..., TermTargets]) -> None:
    with pytest.raises(TrainingError, match=r"losses.gradient: expected classes of width 5 as pooled, got 3 of logits"):
        found("gradient", classes="logits")


def test_outputs_that_the_store_lacks_are_told(found: Callable[..., TermTargets]) -> None:
    with pytest.raises(UnknownNameError, match="'poled'; did you mean pooled"):
        found("mse", output="poled")
    with pytest.raises(UnknownNameError, match="'logts'; did you mean logits"):
        found("kl", output="logts")
    with pytest.raises(UnknownNameError, match=r"output of test:mean-colour in .* 'text'"):
        found("mse", output="text")  # it has class texts and no rows


def test_a_teacher_without_logits_needs_a_head(
    tmp_path: Path, config_of: ConfigOf, make_data: Callable[..., tuple[Shard, ...]], make_store: MakeStore
) -> None:
    bare = replace(SPEC, outputs=SPEC.outputs[:1])
    store = make_store(tmp_path, make_data(tmp_path / "data"), spec=bare, outputs=("pooled",))
    with pytest.raises(TrainingError) as caught:
        of_one(open_store(str(store)).teacher(), build_terms({"kl": 1.0}, {}), config_of())
    first, second = str(caught.value).split("\n")
    assert first.startswith("losses.kl compares with logits, test:mean-colour in ")
    assert second == f"fit a head on its rows with embedkd head {store}, or name another loss"


def test_the_identity_is_that_of_the_numbers(found: Callable[..., TermTargets]) -> None:
    plain, centred = ({"one": found("similarity_kl", centre=centre)} for centre in (False, True))
    assert set(identity_of(plain)) == {"classes of one"}
    assert set(identity_of(centred)) == {"classes of one", "centre of one"}
    assert identity_of(plain)["classes of one"] != identity_of(centred)["classes of one"]
    assert identity_of(plain) == identity_of({"one": found("similarity_kl")})
