"""Samples of a tar in any order, each by one read of its bytes, and each proven before anybody uses it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import JoinError, ShardError
from embedkd.records import MAX_SAMPLE_BYTES, Place, Sample, crc32c, key_hash
from embedkd.sources.index import index_shard
from embedkd.sources.ranges import sample_of
from embedkd.sources.reader import check_same

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedkd.records import Shard
    from embedkd.sources.roots import ShardSource

_RESTORE = "restore the shard, or precompute a new store from what is there"


@dataclass(frozen=True)
class SampleTable:
    """What proves the samples of a shard, or of a slot of it.

    Attributes:
        keys: u64 [n], hashes of their keys.
        places: u64 [n, 3], see `Place`.
    """

    keys: "NDArray[np.uint64]"
    places: "NDArray[np.uint64]"


class ShardFile:
    """A tar with random access to its samples. It is not read as a whole: its length is compared, and each sample.

    Args:
        shard: What the manifest or index says.
        source: The tar.

    Raises:
        ShardError: The tar is missing, or has another length.
    """

    def __init__(self, shard: "Shard", source: "ShardSource") -> None:
        self._url = shard.url
        self._ranges = source.ranges()
        if self._ranges.size_bytes != shard.size_bytes:
            raise ShardError(
                f"shard {shard.url} is not the one that was indexed: expected {shard.size_bytes} bytes, got "
                f"{self._ranges.size_bytes} at {source.place}; {_RESTORE}"
            )

    def sample(self, ordinal: int, table: SampleTable, row: int) -> Sample:
        """One sample, read and proven; safe for threads.

        Args:
            ordinal: Its number in the tar.
            table: Says where it lies, and what proves it.
            row: Its row there.

        Raises:
            ShardError: Its bytes are not those that were indexed.
            JoinError: It has another key.
            StorageError: A remote tar cannot be read.
        """
        place = Place(*table.places[row].tolist())
        where = f"sample {ordinal} of {self._url}"
        if not 0 < place.size_bytes <= MAX_SAMPLE_BYTES:
            raise ShardError(f"{where} cannot have {place.size_bytes} bytes; precompute the store again")
        data = self._ranges.read(place.offset_bytes, place.size_bytes)
        if len(data) != place.size_bytes:
            raise ShardError(f"shard {self._url} was cut while it was in use; restore it and go on")
        if crc32c(data) != place.crc32c:
            raise ShardError(
                f"{where} ({place.size_bytes} bytes from {place.offset_bytes} on) is not the one that was indexed; "
                f"{_RESTORE}"
            )
        key, fields = sample_of(data, where)
        if key_hash(key) != int(table.keys[row]):
            raise JoinError(
                f"sample {key!r} of {self._url} (number {ordinal}) has another key in the store; "
                "precompute the store again"
            )
        return Sample(key, ordinal, fields, place)


def scan_table(shard: "Shard", source: "ShardSource") -> SampleTable:
    """What proves the samples of a shard of which no store knows: one scan of the tar.

    Raises:
        ShardError: The tar is damaged, or another one than was indexed.
        StorageError: A remote tar cannot be read.
    """
    found = index_shard(source)
    check_same(shard, found.size_bytes, found.blake2b, len(found.samples))
    return SampleTable(
        np.array([key_hash(sample.key) for sample in found.samples], np.uint64),
        np.array([sample.place for sample in found.samples], np.uint64),
    )
