"""The one sample in a range of a tar.

Nearly every member has one plain header of 512 bytes, which is read here; a range with any other header goes through
tarfile. Both read what a stream over the whole tar reads.
"""

import io
import tarfile
from typing import TYPE_CHECKING

from embedkd.errors import ShardError
from embedkd.sources.members import key_and_suffix
from embedkd.sources.reader import DAMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK_BYTES = 512
_NAME, _SIZE, _KIND, _PREFIX = slice(0, 100), slice(124, 136), slice(156, 157), slice(345, 500)
_OLD_REGULAR = b"\0"


def sample_of(data: bytes, where: str) -> tuple[str, dict[str, bytes]]:
    """Key and fields of the sample that a range holds, as `ShardStream` gives them.

    Args:
        data: From the first member's first header to the end of the last member's padding.
        where: The range in messages.

    Raises:
        ShardError: The range holds no sample, or several, or something else.
    """
    try:
        members = _plain_members(data)
        if members is None:
            members = list(_all_members(data))
    except DAMAGE as error:
        raise ShardError(f"{where} is no sample of a tar: {error}") from error
    keys: set[str] = set()
    fields: dict[str, bytes] = {}
    for name, content in members:
        field = key_and_suffix(name)
        if field is not None:
            keys.add(field[0])
            fields[field[1]] = content
    if len(keys) != 1:
        raise ShardError(f"{where} holds {len(keys)} samples; expected one")
    return keys.pop(), fields


def _plain_members(data: bytes) -> list[tuple[str, bytes]] | None:
    """Names and contents of all members, as tarfile gives them; None where one is no plain file with a plain header."""
    found = []
    at = 0
    while at < len(data):
        header = data[at : at + _BLOCK_BYTES]
        kind, size = header[_KIND], _octal(header[_SIZE])
        name, prefix = _text(header[_NAME]), _text(header[_PREFIX])
        if size is None or kind not in {tarfile.REGTYPE, _OLD_REGULAR} or name.endswith("/"):
            return None
        begin = at + _BLOCK_BYTES
        if begin + size > len(data):
            return None
        found.append((f"{prefix}/{name}" if prefix else name, data[begin : begin + size]))
        at = begin + -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
    return found


def _octal(field: bytes) -> int | None:
    """A number as most tars write it; None for any other spelling."""
    digits = field.partition(b"\0")[0].strip()
    return int(digits, 8) if digits.isdigit() else None


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _all_members(data: bytes) -> "Iterator[tuple[str, bytes]]":
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|", encoding="utf-8") as tar:
        for info in tar:
            file = tar.extractfile(info) if info.isreg() else None
            if file is not None:
                yield info.name, file.read()
