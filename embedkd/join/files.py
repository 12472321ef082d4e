"""Random access to the samples of a tar that was proven to be the right one."""

import os
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import JoinError, ShardError
from embedkd.sources.fields import LABEL_SUFFIX, NO_LABEL, image_suffix, label
from embedkd.sources.index import index_file
from embedkd.sources.reader import open_shard

if TYPE_CHECKING:
    from pathlib import Path

    from embedkd.records import Shard
    from embedkd.sources.index import IndexedSample

_NOWHERE = (-1, -1)


class ShardFile:
    """A tar with random access to its samples, after it was proven to be the one that the manifest names.

    Args:
        shard: What the manifest or index says.
        path: The file.

    Attributes:
        keys: Of all samples.

    Raises:
        ShardError: The file is missing, damaged, or another one, or a sample holds several images.
    """

    def __init__(self, shard: "Shard", path: "Path") -> None:
        self._url = shard.url
        with open_shard(path, shard.url) as file:
            found = index_file(file, shard.url)
            self._handle = os.dup(file.fileno())  # bare, since a file object complains about being collected
        if (found.size_bytes, found.blake2b, len(found.samples)) != (shard.size_bytes, shard.blake2b, shard.rows):
            raise ShardError(
                f"shard {shard.url} is not the one that was indexed: expected {shard.rows} samples in "
                f"{shard.size_bytes} bytes, got {len(found.samples)} in {found.size_bytes} at {path}, or other bytes; "
                "restore it, or precompute a new store from what is there"
            )
        self.keys = tuple(sample.key for sample in found.samples)
        # Two arrays, since a Python object a member is ten times as large and a worker has dozens of tars open.
        self._images = np.array([self._find_image(sample) for sample in found.samples], np.int64)
        self._labels = np.array([_find(sample, LABEL_SUFFIX) for sample in found.samples], np.int64)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def where(self, ordinal: int) -> str:
        """A sample, as messages name it."""
        return _where(self.keys[ordinal], self._url)

    def image(self, ordinal: int) -> bytes:
        """Bytes of one sample's image.

        Raises:
            JoinError: The sample has none.
        """
        offset, size = self._images[ordinal].tolist()
        if offset < 0:
            raise JoinError(
                f"{self.where(ordinal)} has no image; train on a store of these shards, which knows what to leave out"
            )
        return self._read(offset, size)

    def label(self, ordinal: int) -> int:
        """One sample's label, NO_LABEL without one."""
        offset, size = self._labels[ordinal].tolist()
        return NO_LABEL if offset < 0 else label({LABEL_SUFFIX: self._read(offset, size)}, self.where(ordinal))

    def _find_image(self, sample: "IndexedSample") -> tuple[int, int]:
        suffix = image_suffix((member.suffix for member in sample.members), _where(sample.key, self._url))
        return _NOWHERE if suffix is None else _find(sample, suffix)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._handle, size, offset)
        except OSError as error:
            raise ShardError(f"cannot read shard {self._url}: {error.strerror}") from error
        if len(data) != size:
            raise ShardError(f"shard {self._url} was cut while it was in use; restore it and go on")
        return data


def _find(sample: "IndexedSample", suffix: str) -> tuple[int, int]:
    return next(((m.offset_bytes, m.size_bytes) for m in sample.members if m.suffix == suffix), _NOWHERE)


def _where(key: str, url: str) -> str:
    return f"sample {key!r} of {url}"
