"""From a tar to samples, and whether the tar is whole. The one home of webdataset.

Grouping members into samples is webdataset's rule, taken from webdataset itself: an ordinal counted here is the ordinal
that anybody's webdataset pipeline counts. A key is a member's path up to the first dot of its basename, neighbours with
one key are one sample, and ``__meta__`` members are skipped.

A tar that was cut at a member boundary or inside a header, or in which one header is damaged, ends silently in tarfile
and so in webdataset. Here the end is looked at: two zero blocks and nothing but zeros behind the last member.
"""

import hashlib
import tarfile
from typing import TYPE_CHECKING, Any, TypeVar

from embedkd.errors import ShardError
from embedkd.records import MAX_SAMPLE_BYTES, Place, Sample
from embedkd.sources.members import is_meta, key_and_suffix
from embedkd.sources.places import Places

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from embedkd.records import Shard
    from embedkd.sources.roots import ShardSource

T = TypeVar("T")

_STREAM_BYTES = 64 << 10
_DRAIN_BYTES = 1 << 20
_BLOCK_BYTES = 512
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
# What tarfile lets out on bytes that are damaged in the right place: a number that is none, a chain of long names.
DAMAGE = (tarfile.TarError, EOFError, OSError, ValueError, LookupError, ArithmeticError, RecursionError)
# Records of a global extended header that change what members behind it are called or hold.
_CHANGING = {"path", "size", "hdrcharset"}


class HashingReader:
    """A forward-only binary stream over an open tar that hashes what passes through.

    Args:
        file: The tar, at its first byte.
        length_bytes: Its length.

    Attributes:
        size_bytes: Bytes read so far.
        zeros_from: Everything read from this offset on was zero.
        places: Is shown every byte.
    """

    def __init__(self, file: "io.BufferedIOBase", length_bytes: int) -> None:
        self._file = file
        self._digest = hashlib.blake2b(digest_size=32)
        self.length_bytes = length_bytes
        self.size_bytes = 0
        self.zeros_from = 0
        self.places = Places()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        chunk = self._file.read(size)
        self._digest.update(chunk)
        self.places.take(chunk)
        content = len(chunk.rstrip(b"\0"))
        if content:
            self.zeros_from = self.size_bytes + content
        self.size_bytes += len(chunk)
        return chunk

    @property
    def blake2b(self) -> str:
        """BLAKE2b-256 of the bytes read so far, hexadecimal."""
        return self._digest.hexdigest()


class ShardStream:
    """Samples of one tar in order, read once from front to back, hashed on the way.

    Use as a context manager. After the last sample the tar is known to be whole, and `size_bytes` and `blake2b`
    describe it; whether it is the tar that was indexed is for the caller to ask, see `check_same`.

    Args:
        source: The tar, uncompressed.

    Raises:
        ShardError: Here, if it is missing, no file, empty or compressed; on iteration, see `walk`.
        StorageError: On iteration, if a remote tar cannot be read on.
    """

    def __init__(self, source: "ShardSource") -> None:
        self._name = source.name
        length = source.size_bytes()
        self._file = open_tar(source)
        self._reader = HashingReader(self._file, length)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self._file.close()

    def __iter__(self) -> "Iterator[Sample]":
        for ordinal, (key, fields, place) in enumerate(walk(self._reader, self._name, _content)):
            yield Sample(key, ordinal, fields, place)

    @property
    def size_bytes(self) -> int:
        """Length of the file, once it was read to its end."""
        return self._reader.size_bytes

    @property
    def blake2b(self) -> str:
        """BLAKE2b-256 of the file, once it was read to its end."""
        return self._reader.blake2b


def open_tar(source: "ShardSource") -> "io.BufferedReader":
    """Open a tar for reading from its first byte.

    Raises:
        ShardError: It is missing, no file, empty or compressed.
    """
    file = source.open()
    magic = file.peek(1)
    if magic and not magic.startswith(_COMPRESSED):
        return file
    file.close()
    if not magic:
        raise ShardError(f"shard {source.name} is empty (0 bytes); make or copy it again")
    raise ShardError(
        f"shard {source.name} is compressed; expected a plain tar (images are compressed already): unpack it once"
    )


def check_same(shard: "Shard", size_bytes: int, blake2b: str, rows: int) -> None:
    """Compare a tar that was read with what an index or a manifest says of it.

    Raises:
        ShardError: It is another one.
    """
    if (size_bytes, blake2b, rows) != (shard.size_bytes, shard.blake2b, shard.rows):
        raise ShardError(
            f"shard {shard.url} is not the one that was indexed: expected {shard.rows} samples in "
            f"{shard.size_bytes} bytes, got {rows} in {size_bytes}, or other bytes; restore it, or precompute a new "
            "store from what is there"
        )


def walk(
    reader: HashingReader, url: str, value: "Callable[[tarfile.TarFile, tarfile.TarInfo], T]"
) -> "Iterator[tuple[str, dict[str, T], Place]]":
    """Samples of a tar as ``(key, {suffix: value of the member}, place)``; reads to the end of the tar.

    Args:
        reader: Fresh, over the tar.
        url: The tar's name in messages.
        value: What to keep of a member.

    Raises:
        ShardError: Not a tar, cut or damaged, without samples, with a key twice, or with members that webdataset
            cannot tell apart.
    """
    seen: dict[str, int] = {}
    for key, fields in _group(_members(reader, url, value), url):
        if key in seen:
            raise ShardError(
                f"shard {url} holds key {key!r} twice (samples {seen[key]} and {len(seen)}); "
                "give every sample of a shard its own key"
            )
        seen[key] = len(seen)
        found, place = reader.places.found.popleft()
        assert found == key  # both cut names by webdataset's rule
        if place.size_bytes > MAX_SAMPLE_BYTES:
            raise ShardError(
                f"sample {key!r} of {url} spans {place.size_bytes} bytes, expected up to {MAX_SAMPLE_BYTES}; pack it "
                "smaller, and its members behind one another"
            )
        yield key, fields, place
    if not seen:
        raise ShardError(f"shard {url} holds no sample; expected members named <key>.<suffix>")


def _group(members: "Iterable[dict[str, Any]]", url: str) -> "Iterator[tuple[str, dict[str, Any]]]":
    """Group ``{"fname", "data", "__url__"}`` by webdataset's own function."""
    from webdataset.tariterators import group_by_keys  # here: importing it takes a second, and imports torch

    try:
        for group in group_by_keys(members):
            yield group["__key__"], {suffix: data for suffix, data in group.items() if not suffix.startswith("__")}
    except ValueError as error:
        name = str(error.args[0]).partition(": duplicate file name")[0]
        raise ShardError(
            f"shard {url}: {name!r} comes twice in its sample (upper and lower case count as one); "
            "give every sample of a shard its own key"
        ) from error


def _members(
    reader: HashingReader, url: str, value: "Callable[[tarfile.TarFile, tarfile.TarInfo], T]"
) -> "Iterator[dict[str, Any]]":
    """The members that webdataset reads; then the end of the archive is checked."""
    length = reader.length_bytes
    try:
        tar = _open_tar(reader)
    except DAMAGE as error:
        raise ShardError(f"shard {url} is not a tar: {error}") from error
    try:
        with tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header of the archive
                _check_member(info, tar.offset, length, url)
                _check_global(tar, url)
                taken = info.isreg() and not is_meta(info.name)
                field = key_and_suffix(info.name) if taken else None
                reader.places.member(None if field is None else field[0], info.offset, tar.offset)
                if taken:
                    yield {"fname": info.name, "data": value(tar, info), "__url__": url}
            while reader.read(_DRAIN_BYTES):
                pass
            reader.places.close()
    except DAMAGE as error:
        raise ShardError(f"shard {url} cannot be read: {error}; make or copy it again") from error
    _check_end(reader, tar.offset, url)


def _open_tar(reader: HashingReader) -> tarfile.TarFile:
    """Read as a stream, never compressed: a size in a header is then no reason to allocate or to seek."""
    return tarfile.open(fileobj=reader, mode="r|", bufsize=_STREAM_BYTES, encoding="utf-8")  # type: ignore[call-overload, no-any-return]


def _check_member(info: tarfile.TarInfo, following: int, length: int, url: str) -> None:
    """Refuse what would be read wrongly, or without bounds; ``following`` is where the next header begins."""
    if following > length:
        raise ShardError(f"shard {url} was cut: it ends inside {info.name!r}; make or copy it again")
    if info.size < 0 or following < info.offset_data:
        raise ShardError(f"shard {url} is damaged: {info.name!r} has {info.size} bytes; make or copy it again")
    if info.issparse():
        raise ShardError(f"shard {url} holds a sparse member ({info.name!r}); pack it with plain files")
    if info.name.rpartition("/")[2].partition(".")[2].startswith("__"):
        raise ShardError(f"shard {url}: suffixes with '__' belong to webdataset, got {info.name!r}; rename the member")
    if not info.name.isascii():
        try:
            info.name.encode()
        except UnicodeEncodeError:
            raise ShardError(f"shard {url}: expected member names in UTF-8, got {info.name!r}; rename it") from None


def _check_global(tar: tarfile.TarFile, url: str) -> None:
    """Refuse what makes a member depend on bytes far in front of it: its sample could not be read alone."""
    if _CHANGING & tar.pax_headers.keys():
        raise ShardError(f"shard {url} holds a global header that renames its members; pack it again")


def _check_end(reader: HashingReader, end: int, url: str) -> None:
    left = reader.size_bytes - end
    if left >= _BLOCK_BYTES and reader.zeros_from > end:
        raise ShardError(f"shard {url} is damaged behind byte {end}; make or copy it again")
    if left < 2 * _BLOCK_BYTES:
        raise ShardError(
            f"shard {url} was cut: it ends at byte {reader.size_bytes} without an end of archive; copy it again"
        )


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None  # a regular member
    return file.read()
