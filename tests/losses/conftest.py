"""Random inputs for any loss of the table."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from embedkd.losses import LOSSES

if TYPE_CHECKING:
    from embedkd.losses import Input

BATCH, CLASSES, WIDTH = 6, 4, 5


def _draw(name: str, *, dtype: torch.dtype = torch.float64, batch: int = BATCH) -> dict["Input", torch.Tensor]:
    source = torch.Generator().manual_seed(20240)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64).to(dtype)

    everything: dict[Input, torch.Tensor] = {
        "student": normal(batch, WIDTH),
        "logits": normal(batch, CLASSES),
        "labels": torch.randint(CLASSES, (batch,), generator=source),
        "rows": normal(batch, WIDTH),
        "classes": normal(CLASSES, WIDTH),
        "target_logits": normal(batch, CLASSES),
        "log_scale": normal(),
        "bias": normal(),
        "fusion_weight": normal(WIDTH, 2 * WIDTH),
        "fusion_bias": normal(WIDTH),
    }
    return {key: everything[key] for key in LOSSES[name].inputs if key != "own"}


@pytest.fixture
def draw() -> Callable[..., dict["Input", torch.Tensor]]:
    """``draw(name, dtype=..., batch=...)``: the inputs of a loss in the order of its arguments, the same every time.

    Without ``own``: all samples are of one process.
    """
    return _draw
