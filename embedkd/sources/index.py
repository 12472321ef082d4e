"""What is in a tar: samples, members and their offsets."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.sources.reader import HashingReader, open_shard, walk

if TYPE_CHECKING:
    import tarfile
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Member:
    """One field of a sample: its suffix in lower case, and where its bytes lie in the tar."""

    suffix: str
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class IndexedSample:
    """One sample: webdataset's key and its members in the tar's order."""

    key: str
    members: tuple[Member, ...]


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


def index_shard(path: "Path", url: str) -> ShardIndex:
    """Scan one local tar: every header, every byte for the hash, and the end of the archive.

    Args:
        path: The tar, uncompressed.
        url: Its name in messages.

    Raises:
        ShardError: The file is missing, empty, no tar, compressed, cut or damaged, holds no sample, or a key twice.
    """
    with open_shard(path, url) as file:
        return index_file(file, url)


def index_file(file: io.FileIO, url: str) -> ShardIndex:
    """The same of an open file, from its beginning; raises as `index_shard`."""
    reader = HashingReader(file)
    samples = tuple(
        IndexedSample(key, tuple(Member(suffix, *place) for suffix, place in places.items()))
        for key, places in walk(reader, url, _place)
    )
    return ShardIndex(reader.size_bytes, reader.blake2b, samples)


def _place(_: "tarfile.TarFile", info: "tarfile.TarInfo") -> tuple[int, int]:
    return info.offset_data, info.size
