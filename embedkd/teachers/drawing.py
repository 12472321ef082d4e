"""Weights drawn at random, for dry runs: every architecture of a library, told apart from what was trained."""

from collections.abc import Callable

import torch
from torch import nn


def draw_model(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model and draw all of its weights, leaving the caller's generator alone.

    Libraries begin with zeros here and there (heads, class tokens, layer scales of 1e-6), so that a fresh model says
    the same of every image. Here matrices keep the size of what passes through them, scales are near 1, and biases
    small.

    Args:
        build: Builds the model on the CPU.
        seed: The same one gives the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                _draw(name, parameter)
    return model


def _draw(name: str, parameter: nn.Parameter) -> None:
    if parameter.ndim >= 2:
        # Embeddings (positions, class tokens) are of the size of what they are added to.
        fan_in = parameter[0].numel() if "embed" not in name and "token" not in name else 1
        parameter.normal_(std=fan_in**-0.5)
    elif parameter.ndim == 1 and name.endswith("bias"):
        parameter.normal_(std=0.02)
    elif parameter.ndim == 1:
        parameter.normal_(mean=1.0, std=0.1)
