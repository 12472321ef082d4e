"""Losses on a CUDA device: the values of the CPU, and never a wait of the host."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
import torch

from embedkd.losses import LOSSES, Input

pytestmark = pytest.mark.gpu
Draw: TypeAlias = Callable[..., dict[Input, torch.Tensor]]
every_loss = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture
def no_wait() -> Iterator[None]:
    """Within it, a step at which the host waits for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@every_loss
def test_values_are_those_of_the_cpu(name: str, draw: Draw) -> None:
    inputs = draw(name, dtype=torch.float32)

    value = LOSSES[name].function(*(tensor.cuda() for tensor in inputs.values()))

    torch.testing.assert_close(value.cpu(), LOSSES[name].function(*inputs.values()), rtol=1e-4, atol=1e-5)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_autocast_region_changes_nothing(name: str, dtype: torch.dtype, draw: Draw) -> None:
    inputs = [tensor.cuda() for tensor in draw(name, dtype=torch.float32).values()]
    expected = LOSSES[name].function(*inputs)

    with torch.autocast("cuda", dtype):
        value = LOSSES[name].function(*inputs)

    assert torch.equal(value, expected)


@every_loss
def test_the_host_never_waits(name: str, draw: Draw, request: pytest.FixtureRequest) -> None:
    tensors = [tensor.cuda() for tensor in draw(name, dtype=torch.float32).values()]
    inputs = [tensor.requires_grad_() if tensor.is_floating_point() else tensor for tensor in tensors]
    request.getfixturevalue("no_wait")

    torch.autograd.backward(LOSSES[name].function(*inputs))
