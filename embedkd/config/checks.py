"""Ranges of values: one line that names the key, what was expected and what came."""

import math
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


def require(fits: bool, key: str, expected: str, value: object) -> None:
    """Refuse a value that does not fit.

    Raises:
        ConfigError: ``fits`` is false.
    """
    if not fits:
        raise ConfigError(f"{key}: expected {expected}, got {value!r}")


def require_weights(weights: "Mapping[str, float]", key: str) -> None:
    """Refuse loss weights that are negative, infinite or all zero.

    Raises:
        ConfigError: They are.
    """
    for name, weight in weights.items():
        require(0 <= weight < math.inf, f"{key}.{name}", "a weight of at least 0", weight)
    require(any(weights.values()), key, "a loss with a weight above 0", weights)
