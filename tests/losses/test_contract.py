"""What holds for every loss of the table."""

import inspect
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch

from embedkd.errors import LossError
from embedkd.losses import LOSSES, Input

Draw: TypeAlias = Callable[..., dict[Input, torch.Tensor]]

every_loss = pytest.mark.parametrize("name", LOSSES)
PER_SAMPLE: set[Input] = {"student", "logits", "labels", "rows", "target_logits"}


def require_grads(tensors: dict[Input, torch.Tensor]) -> list[torch.Tensor]:
    return [t.requires_grad_() if t.is_floating_point() else t for t in tensors.values()]


@every_loss
def test_gradients_of_all_inputs_are_right(name: str, draw: Draw) -> None:
    assert torch.autograd.gradcheck(LOSSES[name].function, require_grads(draw(name)))


@every_loss
def test_the_order_of_samples_does_not_matter(name: str, draw: Draw) -> None:
    inputs, order = draw(name), torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = {key: tensor[order] if key in PER_SAMPLE else tensor for key, tensor in inputs.items()}
    function = LOSSES[name].function

    each = function(*inputs.values(), reduction="none")

    torch.testing.assert_close(function(*permuted.values(), reduction="none"), each[order])
    torch.testing.assert_close(function(*permuted.values()), function(*inputs.values()))


@every_loss
def test_reductions_are_over_samples(name: str, draw: Draw) -> None:
    inputs, function = draw(name), LOSSES[name].function

    each = function(*inputs.values(), reduction="none")

    assert each.shape == (6,)
    torch.testing.assert_close(function(*inputs.values(), reduction="mean"), each.mean())
    torch.testing.assert_close(function(*inputs.values(), reduction="sum"), each.sum())
    torch.testing.assert_close(function(*inputs.values()), each.mean())


@every_loss
def test_an_unknown_reduction_is_refused(name: str, draw: Draw) -> None:
    with pytest.raises(LossError, match=f"losses.{name}: expected reduction mean, sum, none, got 'max'"):
        LOSSES[name].function(*draw(name).values(), reduction="max")


@every_loss
def test_one_sample_gives_the_value_that_it_has_alone(name: str, draw: Draw) -> None:
    inputs = require_grads(draw(name, batch=1))

    value = LOSSES[name].function(*inputs)
    torch.autograd.backward(value)

    assert value.isfinite()
    assert all(tensor.grad.isfinite().all() for tensor in inputs if tensor.grad is not None)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype, draw: Draw) -> None:
    halves = draw(name, dtype=dtype)
    wide = [tensor.float() if tensor.is_floating_point() else tensor for tensor in halves.values()]

    value = LOSSES[name].function(*halves.values())

    assert value.dtype == torch.float32
    assert torch.equal(value, LOSSES[name].function(*wide))


@every_loss
def test_an_autocast_region_changes_nothing(name: str, draw: Draw) -> None:
    inputs = draw(name, dtype=torch.float32)
    expected = LOSSES[name].function(*inputs.values())

    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES[name].function(*inputs.values())

    assert torch.equal(value, expected)


@every_loss
def test_float32_agrees_with_float64(name: str, draw: Draw) -> None:
    value = LOSSES[name].function(*draw(name, dtype=torch.float32).values())

    torch.testing.assert_close(value.double(), LOSSES[name].function(*draw(name).values()), rtol=1e-5, atol=1e-6)


@every_loss
def test_float64_is_kept(name: str, draw: Draw) -> None:
    assert LOSSES[name].function(*draw(name).values()).dtype == torch.float64


@every_loss
def test_inputs_of_two_precisions_meet_in_the_wider_one(name: str, draw: Draw) -> None:
    first, *others = draw(name, dtype=torch.float32).values()

    value = LOSSES[name].function(first.bfloat16(), *others)

    assert value.dtype == torch.float32
    torch.testing.assert_close(value, LOSSES[name].function(first, *others), rtol=0.05, atol=0.05)


@every_loss
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, 0.0), (torch.float32, 1e-38), (torch.float32, 1e18), (torch.float16, 1e4), (torch.bfloat16, 1e18)],
)
def test_extreme_inputs_give_finite_values_and_gradients(
    name: str, dtype: torch.dtype, scale: float, draw: Draw
) -> None:
    scaled = {key: (t * scale).to(dtype) if t.is_floating_point() else t for key, t in draw(name).items()}
    inputs = require_grads(scaled)

    value = LOSSES[name].function(*inputs)
    torch.autograd.backward(value)

    assert value.isfinite()
    assert all(tensor.grad.isfinite().all() for tensor in inputs if tensor.grad is not None)


@every_loss
def test_a_nan_is_not_hidden(name: str, draw: Draw) -> None:
    for spoiled in draw(name):
        inputs = draw(name)
        if inputs[spoiled].is_floating_point():
            inputs[spoiled].view(-1)[0] = torch.nan
            assert LOSSES[name].function(*inputs.values()).isnan()


@every_loss
def test_nothing_is_changed_or_drawn(name: str, draw: Draw) -> None:
    inputs = draw(name)
    before = {key: tensor.clone() for key, tensor in inputs.items()}
    state = torch.get_rng_state()

    first, second = (LOSSES[name].function(*inputs.values()) for _ in range(2))

    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], tensor) for key, tensor in inputs.items())


def arguments(name: str) -> list[str]:
    """Of the tensors that `draw` gives; ``own_B`` is the last, where there is one."""
    names = list(inspect.signature(LOSSES[name].function).parameters)[: len(LOSSES[name].inputs)]
    return [argument for argument in names if argument != "own_B"]


def dims(argument: str) -> str:
    suffix = argument.rpartition("_")[2]
    return suffix if suffix.isupper() else ""


@every_loss
def test_a_size_that_differs_is_named_with_what_came(name: str, draw: Draw) -> None:
    names = arguments(name)
    suffixes = [dims(argument) for argument in names]
    for at, suffix in enumerate(suffixes):
        for axis, dim in enumerate(suffix):
            inputs = list(draw(name).values())
            if sum(dim in other for other in suffixes) == 1:
                continue
            inputs[at] = torch.cat([inputs[at], inputs[at].narrow(axis, 0, 1)], dim=axis)
            with pytest.raises(LossError) as caught:
                LOSSES[name].function(*inputs)
            message = str(caught.value)
            assert message.startswith(f"losses.{name}: expected ")
            assert any(f"{argument} [" in message for argument in names)
            assert f" with {dim} = " in message


@every_loss
@pytest.mark.parametrize("shape", [(), (2, 2, 2), (0, 5)])
def test_a_tensor_of_other_rank_or_without_entries_is_named(name: str, shape: tuple[int, ...], draw: Draw) -> None:
    inputs = list(draw(name).values())
    inputs[0] = torch.zeros(shape)

    with pytest.raises(LossError) as caught:
        LOSSES[name].function(*inputs)

    first = arguments(name)[0]
    assert str(caught.value).startswith(f"losses.{name}: expected {first} [{first[-2]}, ")
    assert str(caught.value).endswith(f"with every size at least 1, got {list(shape)}")


@every_loss
def test_numbers_that_come_as_rows_are_named(name: str, draw: Draw) -> None:
    for at, argument in enumerate(arguments(name)):
        if not dims(argument):
            inputs = list(draw(name).values())
            inputs[at] = inputs[at].reshape(1)
            with pytest.raises(LossError, match=rf"losses.{name}: expected {argument} \[\], got \[1\]"):
                LOSSES[name].function(*inputs)


@every_loss
def test_another_dtype_is_named(name: str, draw: Draw) -> None:
    for at, argument in enumerate(arguments(name)):
        inputs = list(draw(name).values())
        labels = argument.startswith("labels")
        inputs[at] = inputs[at].to(torch.int32)
        expected = f"losses.{name}: expected {argument} of {'int64' if labels else 'floating point'}, got torch.int32"
        with pytest.raises(LossError, match=expected):
            LOSSES[name].function(*inputs)


@pytest.mark.parametrize("name", [name for name, entry in LOSSES.items() if entry.gathered])
@pytest.mark.parametrize("ranks", [(4, 2), (1, 3, 2)])
def test_ranks_that_gather_give_the_value_and_the_gradients_of_one_process(
    name: str, ranks: tuple[int, ...], draw: Draw
) -> None:
    """Each rank takes the mean over its own samples; ranks of unequal size are weighted by it."""
    entry = LOSSES[name]
    whole = draw(name)
    expected = torch.autograd.grad(entry.function(*require_grads(whole)), whole["student"])

    value, found = torch.zeros((), dtype=torch.float64), torch.zeros_like(whole["student"])
    for rank, samples in enumerate(torch.split(torch.arange(6), list(ranks))):
        inputs = draw(name)
        leaf = inputs["student"].requires_grad_()
        mine = {key: tensor if key in entry.gathered else tensor[samples] for key, tensor in inputs.items()}
        one = entry.function(*mine.values(), own_B=samples)
        value += one.detach() * ranks[rank] / 6
        found += torch.autograd.grad(one, leaf)[0] * ranks[rank] / 6

    torch.testing.assert_close(value, entry.function(*whole.values()).detach())
    torch.testing.assert_close(found, expected[0])


@every_loss
def test_the_docstring_states_perfect_value_chance_value_and_source(name: str) -> None:
    text = inspect.getdoc(LOSSES[name].function) or ""

    assert "Perfect match" in text
    assert "Chance" in text
    assert "Source:" in text
