from collections.abc import Callable

import pytest
import torch


def _draw_pixels(samples: int, image_px: int) -> torch.Tensor:
    return torch.randn(samples, 3, image_px, image_px, generator=torch.Generator().manual_seed(11))


@pytest.fixture
def draw_pixels() -> Callable[[int, int], torch.Tensor]:
    """``draw_pixels(samples, image_px)``: the same every time."""
    return _draw_pixels
