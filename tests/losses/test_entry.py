import pytest
import torch

from embedkd.errors import ConfigError, UnknownNameError
from embedkd.losses import LOSSES, class_contrastive, sample_contrastive


def test_needs_leave_out_the_student_what_is_learned_and_what_is_optional() -> None:
    assert LOSSES["sample_contrastive"].needs == {"rows"}
    assert LOSSES["class_contrastive"].needs == {"classes", "labels"}
    assert LOSSES["cross_entropy"].needs == {"logits", "labels"}
    assert LOSSES["fusion_contrastive"].needs == {"rows", "classes", "labels"}


def test_options_are_those_of_the_signature() -> None:
    assert LOSSES["sample_contrastive"].options == {"temperature": 0.1, "mask_same_class": True}
    assert LOSSES["cross_entropy"].options == {"label_smoothing": 0.0}
    assert LOSSES["cosine"].options == {}


def test_options_are_set() -> None:
    student, means, labels = torch.eye(3), torch.eye(3), torch.tensor([0, 2, 1])

    value = LOSSES["class_contrastive"].with_options({"temperature": 1})(student, means, labels)

    assert torch.equal(value, class_contrastive(student, means, labels, temperature=1.0))


def test_a_flag_is_set() -> None:
    rows, labels = torch.eye(4), torch.zeros(4, dtype=torch.int64)

    value = LOSSES["sample_contrastive"].with_options({"mask_same_class": False})(rows, rows, labels)

    assert torch.equal(value, sample_contrastive(rows, rows))


def test_an_unknown_option_is_told_with_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match="unknown option of class_contrastive 'temprature'; did you mean temperature"
    ):
        LOSSES["class_contrastive"].with_options({"temprature": 0.1})


@pytest.mark.parametrize("value", ["warm", True, None])
def test_a_value_of_another_kind_is_told(value: object) -> None:
    with pytest.raises(
        ConfigError, match=rf"class_contrastive.temperature: expected a value such as 0.1, got {value!r}"
    ):
        LOSSES["class_contrastive"].with_options({"temperature": value})


def test_a_number_is_no_flag() -> None:
    with pytest.raises(ConfigError, match=r"sample_contrastive.mask_same_class: expected a value such as True, got 1"):
        LOSSES["sample_contrastive"].with_options({"mask_same_class": 1})
