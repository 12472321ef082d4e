import inspect

import pytest

from embedkd.losses import LOSSES

ARGUMENTS = {
    "student": "student_BD",
    "logits": "logits_BC",
    "labels": "labels_B",
    "rows": "target_BD",
    "class_means": "class_means_CD",
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_goes_by_the_name_of_its_function(name: str) -> None:
    assert LOSSES[name].function.__name__ == name


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_are_the_positional_arguments_in_their_order(name: str) -> None:
    entry = LOSSES[name]
    parameters = list(inspect.signature(entry.function).parameters.values())
    positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]

    assert [p.name for p in positional] == [ARGUMENTS[read] for read in entry.inputs]
    assert {read for read, p in zip(entry.inputs, positional, strict=True) if p.default is None} == entry.optional
    assert parameters[-1].name == "reduction"


@pytest.mark.parametrize("name", LOSSES)
def test_what_belongs_to_one_sample_is_a_row(name: str) -> None:
    assert LOSSES[name].per_sample == ("rows" in LOSSES[name].inputs)


def test_the_side_that_is_projected() -> None:
    assert {name: entry.projection for name, entry in LOSSES.items()} == {
        "cross_entropy": None,
        "class_contrastive": "target",
        "sample_contrastive": "target",
        "mse": "student",
        "cosine": "student",
    }


def test_only_comparisons_between_samples_need_two() -> None:
    assert {name for name, entry in LOSSES.items() if entry.smallest_batch > 1} == {"sample_contrastive"}
