import math

import pytest
import torch

from embedkd.errors import LossError
from embedkd.losses._checks import check_positive, check_tensors


def test_a_width_that_differs_is_told_in_one_line() -> None:
    with pytest.raises(LossError) as caught:
        check_tensors("class_contrastive", classes_CD=torch.zeros(100, 512), student_BD=torch.zeros(64, 256))

    assert str(caught.value) == (
        "losses.class_contrastive: expected student_BD [B, D] with D = 512 as classes_CD, got [64, 256]; "
        "project one to the width of the other"
    )


def test_each_letter_is_one_size() -> None:
    with pytest.raises(LossError, match=r"expected logits_BB \[B, B\] with B = 3 as logits_BB, got \[3, 4\]"):
        check_tensors("any", logits_BB=torch.zeros(3, 4))


def test_what_is_absent_is_passed_over() -> None:
    check_tensors("any", student_BD=torch.zeros(3, 4), labels_B=None)


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan, math.inf])
def test_a_temperature_that_cannot_divide_is_refused(temperature: float) -> None:
    with pytest.raises(LossError, match=f"losses.any: expected a temperature above 0, got {temperature}"):
        check_positive("any", "temperature", temperature, "0.1")
