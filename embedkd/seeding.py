"""The one place where randomness starts: every draw is a function of a seed and of what it is for."""

import hashlib
from operator import index
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator


def stream_seed(seed: int, *stream: int | str) -> int:
    """A 63-bit seed for one named stream, for libraries that take a single integer.

    The parts are hashed with their lengths, so (1, 23) and (12, 3) never meet, as sums and products of seeds do.

    >>> stream_seed(0, "augment", 1, "a/b") == stream_seed(0, "augment", 1, "a/b")
    True
    >>> stream_seed(0, 1, 23) == stream_seed(0, 12, 3)
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *stream):
        # By meaning, not by type: numpy's integers and strings name the same stream as Python's.
        text = f"str:{part}".encode() if isinstance(part, str) else f"int:{index(part)}".encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1


def generator(seed: int, *stream: int | str) -> "Generator":
    """A numpy generator for one named stream, e.g. ``generator(seed, "order", epoch)``."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *stream)))
