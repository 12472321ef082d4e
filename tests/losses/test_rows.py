import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from embedkd.errors import LossError
from embedkd.losses._rows import cosines, softmax_costs, unit_rows, widen


def test_widen_leaves_wide_rows_as_they_are() -> None:
    assert widen(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        rows = torch.zeros(1, dtype=dtype)
        assert widen(rows) is rows


def test_unit_rows_agree_with_torch() -> None:
    rows = torch.randn(50, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    torch.testing.assert_close(unit_rows(rows), F.normalize(rows))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=8), st.integers(-38, 38))
def test_the_scale_of_a_row_does_not_matter_anywhere_in_float32(entries: list[float], exponent: int) -> None:
    row = torch.tensor([[1.0, *entries]], dtype=torch.float64)
    scaled = (row * 10.0**exponent).float()
    if scaled.abs().max() <= 1e-12:
        return  # counts as zero, see below

    torch.testing.assert_close(unit_rows(scaled).double(), F.normalize(row), rtol=1e-6, atol=1e-6)


def test_a_row_of_zeros_stays_zero_and_its_gradient_does_not_explode() -> None:
    rows = torch.zeros(1, 3, requires_grad=True)

    unit = unit_rows(rows)
    torch.autograd.backward(unit.sum())

    assert torch.equal(unit, torch.zeros(1, 3))
    assert rows.grad is not None
    assert rows.grad.abs().max() <= 2


def test_gradients_at_a_row_with_one_entry_are_right() -> None:
    rows = torch.eye(3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(unit_rows, rows)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_visible(value: float) -> None:
    assert unit_rows(torch.tensor([[value, 1.0]])).isnan().any()


def test_cosines_meet_in_the_wider_precision() -> None:
    assert cosines(torch.ones(2, 3, dtype=torch.float16), torch.ones(4, 3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("label", [-100, -1, 4])
def test_labels_outside_the_classes_are_refused(label: int) -> None:
    with pytest.raises(
        LossError, match=f"losses.any: expected labels from 0 to 3, got {min(label, 2)} to {max(label, 2)};"
    ):
        softmax_costs("any", torch.zeros(2, 4), torch.tensor([2, label]))
