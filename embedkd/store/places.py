"""Places: where each sample of a slot lies in its tar, so that it can be read and proven by itself."""

from typing import TYPE_CHECKING

import numpy as np

from embedkd.records import MAX_SAMPLE_BYTES
from embedkd.store.schema import PLACE_FACTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedkd.records import Shard

_MAX_CRC32C = (1 << 32) - 1


def are_places(places: "NDArray[np.generic]", shard: "Shard") -> bool:
    """Whether these can be the places of consecutive samples of a shard.

    Args:
        places: [n, 3]: offset and size in bytes, crc32c.
        shard: The shard.

    Returns:
        Whether they are u64 of that shape, each has at least a byte, up to MAX_SAMPLE_BYTES, and ends within the tar,
        each begins behind the end of the one before, and checksums have 32 bits.
    """
    if places.dtype != np.uint64 or places.ndim != 2 or places.shape[1] != PLACE_FACTS:
        return False
    limit = np.uint64(shard.size_bytes)
    begin, size, checksum = places.astype(np.uint64).T
    inside = (begin <= limit) & (size <= limit - np.minimum(begin, limit)) & (size > 0)
    inside &= size <= MAX_SAMPLE_BYTES
    if not inside.all() or (checksum > _MAX_CRC32C).any():
        return False
    return bool((begin[1:] >= (begin + size)[:-1]).all())
