import inspect

import pytest
import torch

from embedkd.losses import LOSSES

ARGUMENTS = {
    "student": {"student_BD", "student_ND"},
    "logits": {"logits_BC"},
    "labels": {"labels_B", "labels_N"},
    "rows": {"target_BD", "target_ND", "target_NE"},
    "target_logits": {"target_logits_BC"},
    "classes": {"classes_CD"},
    "own": {"own_B"},
    "log_scale": {"log_scale"},
    "bias": {"bias"},
    "fusion_weight": {"fusion_weight_DE"},
    "fusion_bias": {"fusion_bias_D"},
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_goes_by_the_name_of_its_function(name: str) -> None:
    assert LOSSES[name].function.__name__ == name


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_are_the_positional_arguments_in_their_order(name: str) -> None:
    entry = LOSSES[name]
    parameters = list(inspect.signature(entry.function).parameters.values())
    positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]

    assert len(positional) == len(entry.inputs)
    assert all(p.name in ARGUMENTS[read] for p, read in zip(positional, entry.inputs, strict=True))
    assert {read for read, p in zip(entry.inputs, positional, strict=True) if p.default is None} == entry.optional
    assert parameters[-1].name == "reduction"


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_of_all_ranks_is_what_is_gathered(name: str) -> None:
    entry = LOSSES[name]
    names = list(inspect.signature(entry.function).parameters)
    gathered = {read for read, argument in zip(entry.inputs, names, strict=False) if "N" in argument.rpartition("_")[2]}

    assert entry.gathered == gathered
    assert bool(entry.gathered) == ("own" in entry.inputs)


@pytest.mark.parametrize("name", LOSSES)
def test_what_belongs_to_one_sample_is_a_row(name: str) -> None:
    entry = LOSSES[name]
    assert entry.per_sample == bool({"rows", "target_logits"} & set(entry.inputs))
    assert entry.per_sample <= bool(entry.from_store)


@pytest.mark.parametrize("name", LOSSES)
def test_every_learned_number_has_a_start(name: str) -> None:
    assert set(LOSSES[name].learned) == {"log_scale", "bias"} & set(LOSSES[name].inputs)


@pytest.mark.parametrize("name", LOSSES)
def test_who_compares_with_logits_reads_that_output(name: str) -> None:
    entry = LOSSES[name]
    assert entry.default_output == ("logits" if "target_logits" in entry.inputs else None)


def test_the_side_that_is_projected() -> None:
    projected = {name: entry.projection for name, entry in LOSSES.items()}
    assert {name for name, side in projected.items() if side == "target"} == {"class_contrastive", "sample_contrastive"}
    assert {name for name, side in projected.items() if side is None} == {
        *("cross_entropy", "kl", "scaled_kl"),  # classes have no widths
        *("relational_distance", "relational_angle", "relational_similarity", "relational_probability"),
    }


def test_only_comparisons_between_samples_need_several() -> None:
    assert {name: entry.smallest_batch for name, entry in LOSSES.items() if entry.smallest_batch > 1} == {
        "sample_contrastive": 2,
        "relational_distance": 3,
        "relational_angle": 3,
        "relational_similarity": 2,
        "relational_probability": 3,
    }


@pytest.mark.parametrize("name", [name for name, entry in LOSSES.items() if entry.smallest_batch > 1])
def test_fewer_samples_give_no_gradient(name: str) -> None:
    least = LOSSES[name].smallest_batch
    drawn = torch.randn(2, least, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    for batch in (least - 1, least):
        student = drawn[0, :batch].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(LOSSES[name].function(student, drawn[1, :batch]), student)
        assert bool(gradient.abs().max() > 1e-6) == (batch == least)
