"""Ranges of values: one line that names the key, what was expected and what came."""

import math
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError
from embedkd.records import ENCODINGS, LOGITS, OutputSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


def require(fits: bool, key: str, expected: str, value: object) -> None:
    """Refuse a value that does not fit.

    Raises:
        ConfigError: ``fits`` is false.
    """
    if not fits:
        raise ConfigError(f"{key}: expected {expected}, got {value!r}")


def require_encodings(entries: tuple[str, ...], key: str) -> None:
    """Refuse what is no encoding of one output or of all, and two of the same.

    Raises:
        ConfigError: There is such an entry.
    """
    names = [entry.rpartition("=")[0] for entry in entries]
    for name, entry in zip(names, entries, strict=True):
        output = OutputSpec(name or LOGITS, 0, entry.rpartition("=")[2])
        fits = "=" not in name and (output.encoding in ENCODINGS or (output.top is not None and output.name == LOGITS))
        expected = f"{', '.join(ENCODINGS)} or, of logits, top<K>: for all outputs, or for one (cls=int8), each once"
        require(fits and names.count(name) == 1, key, expected, entry)


def require_weights(weights: "Mapping[str, float]", key: str) -> None:
    """Refuse loss weights that are negative, infinite or all zero.

    Raises:
        ConfigError: They are.
    """
    for name, weight in weights.items():
        require(0 <= weight < math.inf, f"{key}.{name}", "a weight of at least 0", weight)
    require(any(weights.values()), key, "a loss with a weight above 0", weights)
