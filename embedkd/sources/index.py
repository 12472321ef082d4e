"""What is in a tar: its samples and where they lie."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.records import Place
from embedkd.sources.reader import HashingReader, open_tar, walk

if TYPE_CHECKING:
    from embedkd.sources.roots import ShardSource


@dataclass(frozen=True, slots=True)
class IndexedSample:
    """One sample: webdataset's key, and where it lies."""

    key: str
    place: Place


@dataclass(frozen=True)
class ShardIndex:
    """One whole tar.

    Attributes:
        size_bytes: Length of the file.
        blake2b: BLAKE2b-256 of the file, hexadecimal.
        samples: In the order and grouping of webdataset.
    """

    size_bytes: int
    blake2b: str
    samples: tuple[IndexedSample, ...]


def index_shard(source: "ShardSource") -> ShardIndex:
    """Scan one tar: every header, every byte for the hash, and the end of the archive.

    Args:
        source: The tar, uncompressed.

    Raises:
        ShardError: The tar is missing, empty, no tar, compressed, cut or damaged, holds no sample, or a key twice.
        StorageError: A remote tar cannot be read to its end.
    """
    length = source.size_bytes()
    with open_tar(source) as file:
        reader = HashingReader(file, length)
        samples = tuple(IndexedSample(key, place) for key, _, place in walk(reader, source.name, lambda *_: None))
    return ShardIndex(reader.size_bytes, reader.blake2b, samples)
