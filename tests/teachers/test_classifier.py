"""A classifier beside a teacher's folder: what it says, what identifies it, and files from strangers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from embedkd.errors import TeacherError
from embedkd.records import OutputSpec, Preprocess, TeacherSpec
from embedkd.teachers.classifier import CARD_FILE, MAX_CLASSES, WEIGHTS_FILE, Card, save_classifier, with_classifier
from embedkd.teachers.runner import TorchTeacher

DIM, CLASSES = 6, ("ant", "bee", "cat")
CARD = Card("cls", CLASSES, "vit:Toy 0123", {"val_top1": 0.5, "config": {"epochs": 3}})
SPEC = TeacherSpec(
    name="vit:Toy",
    model="toy",
    weights_sha256="0" * 64,
    outputs=(
        OutputSpec("cls", DIM),
        OutputSpec("pooled", 4),
        OutputSpec("logits", 1000),
        OutputSpec("patch_mean", DIM),
    ),
    preprocess=Preprocess(2, (2, 2), "bicubic", (0.5,) * 3, (0.5,) * 3),
    normalised=False,
    precision="float32",
    source="tests",
)


class Asked:
    """A model that remembers which outputs it was asked for."""

    def __init__(self) -> None:
        self.wanted: list[frozenset[str]] = []

    def __call__(self, pixels: Tensor, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        self.wanted.append(wanted)
        flat = pixels.flatten(1)
        every = {"cls": flat[:, :DIM], "pooled": flat[:, :4], "logits": flat[:, :1], "patch_mean": flat[:, -DIM:]}
        return {name: every[name] for name in wanted}


@pytest.fixture
def teacher() -> TorchTeacher:
    return TorchTeacher(SPEC, lambda image: torch.empty(0), Asked(), torch.device("cpu"))


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(DIM, len(CLASSES))


@pytest.fixture
def folder(tmp_path: Path, linear: nn.Linear) -> Path:
    save_classifier(tmp_path, linear, CARD)
    return tmp_path


def test_logits_are_linear_in_the_features(teacher: TorchTeacher, folder: Path, linear: nn.Linear) -> None:
    tuned = with_classifier(teacher, folder)
    pixels = torch.randn(5, 3, 2, 2)
    said = tuned.embed(pixels, ["logits", "cls"])
    with torch.no_grad():
        expected = linear(said["cls"])
    assert torch.equal(said["logits"], expected)
    assert said["logits"].shape == (5, 3)


def test_only_what_is_needed_is_asked_of_the_model(teacher: TorchTeacher, folder: Path) -> None:
    tuned, pixels = with_classifier(teacher, folder), torch.randn(2, 3, 2, 2)
    for outputs in (["logits"], ["pooled"], ["logits", "pooled"]):
        tuned.embed(pixels, outputs)
    asked = teacher.forward
    assert isinstance(asked, Asked)
    assert asked.wanted == [{"cls"}, {"pooled"}, {"cls", "pooled"}]


def test_the_spec_has_the_new_logits_in_their_place(teacher: TorchTeacher, folder: Path) -> None:
    spec = with_classifier(teacher, folder).spec
    assert [(o.name, o.dim) for o in spec.outputs] == [("cls", 6), ("pooled", 4), ("logits", 3), ("patch_mean", 6)]
    assert spec.derived_from == CARD.derived_from
    assert spec.default_outputs == ("cls", "logits")
    plain = replace(teacher, spec=replace(SPEC, outputs=(SPEC.outputs[0],)))
    assert [o.name for o in with_classifier(plain, folder).spec.outputs] == ["cls", "logits"]


def test_a_folder_without_classifier_changes_nothing(teacher: TorchTeacher, tmp_path: Path) -> None:
    assert with_classifier(teacher, tmp_path) is teacher


def test_the_digest_covers_backbone_and_classifier(teacher: TorchTeacher, folder: Path, linear: nn.Linear) -> None:
    first = with_classifier(teacher, folder).spec
    assert with_classifier(teacher, folder).spec == first
    assert first.weights_sha256 != SPEC.weights_sha256
    other = with_classifier(replace(teacher, spec=replace(SPEC, weights_sha256="1" * 64)), folder).spec
    with torch.no_grad():
        linear.bias.add_(1)
    save_classifier(folder, linear, CARD)
    changed = with_classifier(teacher, folder).spec
    save_classifier(folder, linear, replace(CARD, features="patch_mean"))
    moved = with_classifier(teacher, folder).spec
    assert len({first.fingerprint, other.fingerprint, changed.fingerprint, moved.fingerprint}) == 4
    save_classifier(folder, linear, replace(CARD, derived_from="elsewhere", facts={}))
    assert with_classifier(teacher, folder).spec.fingerprint == changed.fingerprint


def rewrite(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / CARD_FILE).read_bytes()) | changes
    (folder / CARD_FILE).write_text(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    [
        {"features": None},
        {"features": 3},
        {"classes": None},
        {"classes": []},
        {"classes": "abc"},
        {"classes": ["a", 2, "c"]},
        {"classes": ["a", "b", "c" * 5000]},
        {"classes": ["x"] * (MAX_CLASSES + 1)},
        {"derived_from": None},
        {"derived_from": "x" * 5000},
    ],
)
def test_a_card_that_is_none_is_refused(teacher: TorchTeacher, folder: Path, change: dict[str, Any]) -> None:
    rewrite(folder, **change)
    with pytest.raises(TeacherError, match="is no card of a tuned teacher"):
        with_classifier(teacher, folder)


@pytest.mark.parametrize("features", ["image", "text", "logits", "cls@0", "../cls"])
def test_features_that_the_teacher_lacks_are_refused(teacher: TorchTeacher, folder: Path, features: str) -> None:
    rewrite(folder, features=features)
    with pytest.raises(TeacherError, match=r"has no such output to classify by, it has: cls, pooled, logits"):
        with_classifier(teacher, folder)


def test_a_card_that_is_missing_broken_or_endless_is_refused(teacher: TorchTeacher, folder: Path) -> None:
    (folder / CARD_FILE).write_bytes(b"[" * 100)
    with pytest.raises(TeacherError, match="cannot read"):
        with_classifier(teacher, folder)
    with (folder / CARD_FILE).open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(TeacherError, match="more than"):
        with_classifier(teacher, folder)
    (folder / CARD_FILE).unlink()
    with pytest.raises(TeacherError, match="copy the model's whole folder"):
        with_classifier(teacher, folder)


Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.update(weight=state["weight"].T.contiguous()), r"weight is torch.float32 \[6, 3\]"),
        (lambda state: state.update(weight=state["weight"].reshape(-1)), r"weight is torch.float32 \[18\]"),
        (lambda state: state.update(bias=state["bias"].int()), r"bias is torch.int32 \[3\]"),
        (lambda state: state.update(scale=state.pop("bias")), "scale is left over; bias is missing"),
        (lambda state: state["bias"].fill_(float("nan")), "bias has values that are not finite"),
        (lambda state: state.update(weight=state["weight"].double()), r"weight is torch.float64 \[3, 6\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(teacher: TorchTeacher, folder: Path, change: Change, problem: str) -> None:
    state = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    change(state)
    safetensors.torch.save_file(state, folder / WEIGHTS_FILE)
    with pytest.raises(TeacherError, match=problem):
        with_classifier(teacher, folder)


def test_a_file_of_another_length_is_not_even_opened(
    teacher: TorchTeacher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedkd.teachers.classifier.read_weights", lambda files: pytest.fail("opened"))
    with (folder / WEIGHTS_FILE).open("ab") as file:
        file.truncate(8 << 20)
    with pytest.raises(TeacherError, match="expected 84 and a header for 3 classes of 6 features"):
        with_classifier(teacher, folder)
    rewrite(folder, classes=["x"] * 60_000)
    (folder / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(TeacherError, match="has 0 bytes"):
        with_classifier(teacher, folder)


def test_a_pickle_under_that_name_is_refused(teacher: TorchTeacher, folder: Path, linear: nn.Linear) -> None:
    torch.save(linear.state_dict(), folder / WEIGHTS_FILE)
    with pytest.raises(TeacherError, match="cannot read weights"):
        with_classifier(teacher, folder)
