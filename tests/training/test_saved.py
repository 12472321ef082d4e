import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from embedkd.config import load_config
from embedkd.errors import TrainingError, UnknownNameError
from embedkd.rundir import RunDir, read_json, write_json
from embedkd.students import StudentOptions
from embedkd.training.saved import StudentCard, load_projections, load_student, save_student
from embedkd.training.state import Position

CARD = StudentCard(
    name="vit-tiny",
    options=StudentOptions(patch_px=4, drop_path=0.1),
    num_classes=3,
    image_px=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    class_names=("a", "b", "c"),
)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.claim(load_config())
    save_student(made, CARD.build(seed=3), CARD, Position(step=9, best_epoch=2, best_top1=0.5))
    return made


def change(run: RunDir, **facts: object) -> None:
    write_json(run.student, {**read_json(run.student), **facts})


def test_a_student_comes_back_as_it_was_saved(run: RunDir) -> None:
    student, card = load_student(run)
    expected = CARD.build(seed=3).eval()
    assert not student.training
    for name, tensor in expected.state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor)
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.equal(student(pixels).logits, expected(pixels).logits)
    assert (card.epoch, card.val_top1, card.class_names) == (2, 0.5, ("a", "b", "c"))
    assert card.parameters == sum(p.numel() for p in expected.parameters())
    assert (card.mean, card.std, card.options) == (CARD.mean, CARD.std, CARD.options)


def test_data_without_class_names_has_a_card_too(run: RunDir) -> None:
    change(run, class_names=None)
    assert load_student(run)[1].class_names is None


def test_the_card_is_plain_json(run: RunDir) -> None:
    assert json.loads(run.student.read_text())["format"] == 1


def test_a_run_without_student_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"expected a run folder with student.json"):
        load_student(RunDir(tmp_path))


def test_lost_weights_are_named(run: RunDir) -> None:
    run.weights.unlink()
    with pytest.raises(TrainingError, match=r"cannot read .*student.safetensors: No such file"):
        load_student(run)


def test_weights_of_another_moment_are_refused(run: RunDir) -> None:
    run.weights.write_bytes(safetensors.torch.save(CARD.build(seed=4).state_dict()))
    with pytest.raises(TrainingError, match=r"is not the file that student.json was written for"):
        load_student(run)


@pytest.mark.parametrize("facts", [{"num_classes": 4}, {"image_px": 16}, {"name": "vit-base"}])
def test_weights_of_another_student_are_refused(run: RunDir, facts: dict[str, object]) -> None:
    change(run, **facts)
    with pytest.raises(TrainingError, match="holds no vit-"):
        load_student(run)


def test_a_student_that_this_version_lacks_is_named(run: RunDir) -> None:
    change(run, name="vit-tony")
    with pytest.raises(UnknownNameError, match="did you mean vit-tiny"):
        load_student(run)


@pytest.mark.parametrize("facts", [{"num_classes": 1 << 40}, {"image_px": 1 << 30}, {"num_classes": 0}])
def test_sizes_are_bounded_before_anything_is_built(run: RunDir, facts: dict[str, object]) -> None:
    change(run, **facts)
    with pytest.raises(TrainingError, match="are out of bounds"):
        load_student(run)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": 2}, "is of another format than 1"),
        ({"surprise": 1}, "is no card of a student"),
        ({"mean": 3}, "is no card of a student"),
        ({"num_classes": "many"}, "is no card of a student"),
    ],
)
def test_a_card_that_is_none_is_named(run: RunDir, facts: dict[str, object], message: str) -> None:
    change(run, **facts)
    with pytest.raises(TrainingError, match=message):
        load_student(run)


def test_a_card_without_a_field_is_named(run: RunDir) -> None:
    document = read_json(run.student)
    del document["std"]
    write_json(run.student, document)
    with pytest.raises(TrainingError, match="is no card of a student: 'std'"):
        load_student(run)


def test_what_losses_learned_comes_back_with_the_student_of_the_same_epoch(run: RunDir) -> None:
    _, card = load_student(run)
    assert load_projections(run, card) == {}, "nothing was learned"
    objective = torch.nn.Linear(2, 3)
    save_student(run, CARD.build(seed=4), CARD, Position(step=12, best_epoch=3), objective)
    student, card = load_student(run)
    found = load_projections(run, card)
    assert found.keys() == {"weight", "bias"}
    assert torch.equal(found["weight"], objective.weight)
    assert torch.equal(student.state_dict()["model.head.weight"], CARD.build(seed=4).state_dict()["model.head.weight"])
    with pytest.raises(TrainingError, match=r"student-projections.safetensors is not the file that student.json was"):
        load_projections(run, replace(card, weights_blake2b="0" * 64))
    run.projections.write_bytes(b"cut")
    with pytest.raises(TrainingError, match=r"student-projections.safetensors cannot be read"):
        load_projections(run, card)
