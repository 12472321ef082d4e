import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkd.errors import ConfigError, LossError, UnknownNameError
from embedkd.losses import LOSSES, active_weights, weighted_sum

WEIGHTS = st.floats(0, 1e6, allow_nan=False)


def test_the_recipe_of_clip_embed_kd() -> None:
    values = {"cross_entropy": torch.tensor(2.0), "class_contrastive": torch.tensor(4.0)}

    assert weighted_sum(values, {"cross_entropy": 0.5, "class_contrastive": 0.5}).item() == 3.0


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.sampled_from(sorted(LOSSES)), WEIGHTS, min_size=1).filter(lambda w: any(w.values())))
def test_it_is_the_sum_of_products(weights: dict[str, float]) -> None:
    active = active_weights(weights)
    values = {name: torch.tensor(float(at + 1), dtype=torch.float64) for at, name in enumerate(active)}

    total = weighted_sum(values, weights)

    expected = math.fsum(weight * values[name].item() for name, weight in active.items())
    assert total.item() == pytest.approx(expected, rel=1e-12)
    assert set(active) == {name for name, weight in weights.items() if weight > 0}


def test_the_order_of_the_values_changes_no_bit() -> None:
    values = {name: torch.rand((), generator=torch.Generator().manual_seed(at)) for at, name in enumerate(LOSSES)}
    weights = dict.fromkeys(LOSSES, 0.1)

    assert torch.equal(weighted_sum(values, weights), weighted_sum(dict(reversed(values.items())), weights))


def test_gradients_carry_the_weights() -> None:
    mse, cosine = torch.tensor(1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)

    torch.autograd.backward(weighted_sum({"mse": mse, "cosine": cosine}, {"mse": 2000, "cosine": 0.5}))

    assert mse.grad is not None
    assert cosine.grad is not None
    assert (mse.grad.item(), cosine.grad.item()) == (2000, 0.5)


def test_values_of_samples_are_added_sample_by_sample() -> None:
    values = {"mse": torch.tensor([1.0, 2.0]), "cosine": torch.tensor([3.0, 5.0])}

    assert weighted_sum(values, {"mse": 1, "cosine": 2}).tolist() == [7, 12]


def test_a_loss_of_weight_zero_must_not_have_been_computed() -> None:
    weights = {"cross_entropy": 1.0, "mse": 0.0}

    assert weighted_sum({"cross_entropy": torch.tensor(2.0)}, weights).item() == 2
    with pytest.raises(LossError, match="expected the values of cross_entropy, got cross_entropy, mse"):
        weighted_sum({"cross_entropy": torch.tensor(2.0), "mse": torch.tensor(1.0)}, weights)


@pytest.mark.parametrize(("values", "came"), [({}, "none"), ({"mse": torch.tensor(1.0)}, "mse")])
def test_a_value_that_is_missing_is_told(values: dict[str, torch.Tensor], came: str) -> None:
    with pytest.raises(LossError, match=f"expected the values of mse, cosine, got {came}"):
        weighted_sum(values, {"mse": 1, "cosine": 1})


def test_values_of_different_shapes_are_told() -> None:
    with pytest.raises(LossError, match=r"expected values of one shape, got mse \[2\], cosine \[\]; use one reduction"):
        weighted_sum({"mse": torch.zeros(2), "cosine": torch.tensor(1.0)}, {"mse": 1, "cosine": 1})


def test_an_unknown_loss_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown loss 'class_contrastve'; did you mean class_contrastive"):
        active_weights({"class_contrastve": 1.0})


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf])
def test_a_weight_that_cannot_be_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=f"losses.mse: expected a weight of at least 0, got {weight}"):
        active_weights({"cross_entropy": 1.0, "mse": weight})


@pytest.mark.parametrize("weights", [{}, {"mse": 0.0}])
def test_a_sum_of_nothing_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected a loss with a weight above 0"):
        active_weights(weights)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_total_that_is_not_finite_is_told_term_by_term_if_asked(value: float) -> None:
    values = {"cross_entropy": torch.tensor(2.5), "mse": torch.tensor(value)}
    weights = {"cross_entropy": 1.0, "mse": 1.0}

    assert not weighted_sum(values, weights).isfinite()
    with pytest.raises(LossError, match=f"the total is not finite; cross_entropy 2.5, mse {value}"):
        weighted_sum(values, weights, check_finite=True)


def test_a_finite_total_passes_the_check() -> None:
    assert weighted_sum({"mse": torch.tensor(1.0)}, {"mse": 1}, check_finite=True).item() == 1
