"""Our JSON documents: canonical bytes that carry the digest of their own content.

A digest finds what fell over or was edited by hand. It is no signature: whoever forges a document can seal it again. So
every field is read through `Fields`, which believes no type and no size.
"""

import binascii
import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkd.errors import FormatError, IntegrityError, printable
from embedkd.records import blake2b_hex, canonical_json, is_shallow
from embedkd.store.schema import FORMAT, NAMESPACE, group_metadata

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MAX_MANIFEST_BYTES = 256 << 20
MAX_DOCUMENT_BYTES = 4 << 20
MAX_WIDE_BYTES = 64 << 20  # of what holds more than ASCII: in memory one such character makes all of them longer
MAX_CONTAINERS = 1 << 20  # lists and objects of one document; each takes up to a hundred times its bytes in memory
MAX_COMMAS = 1 << 23
MAX_FREE_BYTES = 64 << 10
MAX_FREE_DEPTH = 64
DIGEST = "digest"
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_NUMBER = (1 << 63) - 1
MAX_TEXT = 4096
_SHOWN = 60  # characters of a value that did not fit
# C0, C1, the two that end a line or a paragraph, halves of surrogates: no name or licence has one, a terminal or a log
# obeys them, and some cannot be encoded.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def seal(document: dict[str, Any]) -> bytes:
    """Canonical bytes of a document with its format and its digest added."""
    content = {"format": FORMAT, **document}
    return canonical_json({**content, DIGEST: blake2b_hex(canonical_json(content))})


def digest_of(document: dict[str, Any]) -> str:
    """The digest that `seal` gives a document."""
    return blake2b_hex(canonical_json({"format": FORMAT, **document}))


def unseal(data: bytes, where: str) -> "Fields":
    """The content of a document, after its format, its digest and its bytes were checked.

    Raises:
        FormatError: Not JSON, not an object, or of another format.
        IntegrityError: The digest differs, or the bytes are not the canonical ones: somebody edited it, or a bit fell.
    """
    document = _parse(data, where)
    _check_format(document, where)
    if not _is_sealed(data, document, document.get(DIGEST)):
        raise IntegrityError(f"{where} was changed after it was written (its digest does not fit); restore it")
    return Fields(_without(document, DIGEST), where, document[DIGEST])


def seal_group(attributes: dict[str, Any]) -> bytes:
    """A group's ``zarr.json`` whose attributes carry their format and the digest of their own content."""
    content = {"format": FORMAT, **attributes}
    return canonical_json(group_metadata({**content, DIGEST: blake2b_hex(canonical_json(content))}))


def unseal_group(data: bytes, where: str) -> "Fields":
    """The attributes of a group of ours, checked as by `unseal`.

    Raises:
        FormatError: Not JSON, a group that is not ours, or of another format.
        IntegrityError: The bytes are not those that were written.
    """
    attributes = _parse(data, where).get("attributes")
    ours = attributes.get(NAMESPACE) if isinstance(attributes, dict) else None
    if not isinstance(ours, dict):
        raise FormatError(f"{where} has no '{NAMESPACE}' attributes; expected an embedding store made by embedkd")
    _check_format(ours, where)
    content = _without(ours, DIGEST)
    if not _is_sealed_group(data, content):
        raise IntegrityError(f"{where} was changed after it was written (its digest does not fit); restore it")
    return Fields(content, where, ours[DIGEST])


class Fields:
    """A JSON object whose every member is checked when it is taken.

    Members that nobody takes are ignored: a later version may add facts, but not change what the known ones mean.

    Args:
        content: The object.
        where: What it is, for messages.
        own_digest: The digest that a sealed document was found to have; empty for what is no whole document.
    """

    def __init__(self, content: object, where: str, own_digest: str = "") -> None:
        self.where = where
        self.own_digest = own_digest
        if not isinstance(content, dict):
            raise self.unexpected("a JSON object", content)
        self.content: dict[str, Any] = content

    def number(self, name: str, low: int = 0, high: int = MAX_NUMBER) -> int:
        """A whole number within bounds."""
        return self._number(name, self._take(name), low, high)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            raise self.unexpected(f"{name} to be true or false", value)
        return value

    def text(self, name: str) -> str:
        """A string of up to 4,096 characters, none of them a control character."""
        return self._text(name, self._take(name))

    def real(self, name: str) -> float:
        """A finite number; the very one that was written, so whole numbers stay whole."""
        return self._real(name, self._take(name))

    def digest(self, name: str) -> str:
        """64 hexadecimal digits in lower case."""
        value = self._take(name)
        if not isinstance(value, str) or not _HEX_DIGEST.fullmatch(value):
            raise self.unexpected(f"{name} to be 64 hexadecimal digits", value)
        return value

    def texts(self, name: str, limit: int) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(self._text(name, value) for value in self._list(name, limit))

    def numbers(self, name: str, limit: int, high: int = MAX_NUMBER) -> tuple[int, ...]:
        """A list of whole numbers from 0."""
        return tuple(self._number(name, value, 0, high) for value in self._list(name, limit))

    def reals(self, name: str, limit: int) -> tuple[float, ...]:
        """A list of finite numbers."""
        return tuple(self._real(name, value) for value in self._list(name, limit))

    def names(self, what: str, limit: int, is_name: "Callable[[str], bool]") -> tuple[str, ...]:
        """Names of all members, of an object that has one a thing. Names become folders and columns.

        Args:
            what: The things, for messages.
            limit: How many there may be.
            is_name: Whether a thing can be called so.
        """
        if len(self.content) > limit:
            raise self.unexpected(f"up to {limit} {what}", self.content)
        odd = next((name for name in self.content if not is_name(name)), None)
        if odd is not None:
            raise self.unexpected(f"names of {what}", odd)
        return tuple(self.content)

    def free(self, name: str) -> dict[str, Any]:
        """A JSON object of any content, neither long (64 KiB) nor deep (64): it is copied and written again."""
        value = self.member(name).content
        if not is_shallow(value, MAX_FREE_DEPTH) or len(canonical_json(value)) > MAX_FREE_BYTES:
            raise self.unexpected(f"{name} to have up to {MAX_FREE_BYTES} bytes and {MAX_FREE_DEPTH} levels", value)
        return value

    def packed(self, name: str, dtype: str, rows: int | None = None, width: int = 1) -> "NDArray[Any]":
        """A column of numbers, as `pack` writes it: [rows], or [rows, width] where ``width`` is not 1.

        Args:
            name: The member.
            dtype: Of the numbers.
            rows: How many there must be; None for any number.
            width: Numbers a row.
        """
        value, row_bytes = self._take(name), np.dtype(dtype).itemsize * width
        length = None if rows is None else 4 * -(-rows * row_bytes // 3)
        if not isinstance(value, str) or length not in {None, len(value)}:
            raise self.unexpected(f"{name} to be base64 of {rows or 'some'} times {row_bytes} bytes", value)
        try:
            data = binascii.a2b_base64(value, strict_mode=True)
        except ValueError as error:
            raise self.unexpected(f"{name} to be base64", value) from error
        if len(data) % row_bytes or (rows is not None and len(data) != rows * row_bytes):
            raise self.unexpected(f"{name} to be base64 of {rows or 'some'} times {row_bytes} bytes", value)
        column = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
        return column if width == 1 else column.reshape(-1, width)

    def objects(self, name: str, limit: int) -> "list[Fields]":
        """A list of JSON objects."""
        return [Fields(value, f"{self.where}, {name} {i}") for i, value in enumerate(self._list(name, limit))]

    def members(self, name: str, limit: int) -> list[dict[str, Any]]:
        """The same without the means to take members one by one: for lists too long for that."""
        values = self._list(name, limit)
        odd = next((value for value in values if not isinstance(value, dict)), None)
        if odd is not None:
            raise self.unexpected(f"{name} to be a list of JSON objects", odd)
        return values

    def member(self, name: str) -> "Fields":
        """A JSON object."""
        return Fields(self._take(name), f"{self.where}, {printable(name, _SHOWN)}")

    def has(self, name: str) -> bool:
        """Whether a member is there and not null."""
        return self.content.get(name) is not None

    def unexpected(self, expected: str, value: object) -> FormatError:
        """The error that says what was expected of it and, as far as that is short, what came."""
        return FormatError(f"{self.where}: expected {expected}, got {_described(value)}")

    def _take(self, name: str) -> Any:
        if name not in self.content:
            raise FormatError(f"{self.where} lacks '{name}'; it is not of format {FORMAT}")
        return self.content[name]

    def _list(self, name: str, limit: int) -> list[Any]:
        value = self._take(name)
        if not isinstance(value, list) or len(value) > limit:
            raise self.unexpected(f"{name} to be a list of up to {limit}", value)
        return value

    def _number(self, name: str, value: object, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            raise self.unexpected(f"{printable(name, _SHOWN)} to be a whole number from {low} to {high}", value)
        return value

    def _real(self, name: str, value: object) -> float:
        if not (type(value) is float and math.isfinite(value)) and not (type(value) is int and abs(value) < 1 << 53):
            raise self.unexpected(f"{name} to be a number", value)
        return value

    def _text(self, name: str, value: object) -> str:
        if not isinstance(value, str) or len(value) > MAX_TEXT or has_control(value):
            raise self.unexpected(f"{name} to be a text of up to {MAX_TEXT} characters and no control character", value)
        return value


def has_control(text: str) -> bool:
    """Whether a text holds a control character, a line end of any kind or half a surrogate."""
    return _CONTROL.search(text) is not None


def _described(value: object) -> str:
    """A value for a message: it may be long, and deeper than Python can print."""
    if isinstance(value, dict):
        return f"an object of {len(value)} members"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"{value[: _SHOWN - 3]!r}..."
    return printable(repr(value), _SHOWN)


def _parse(data: bytes, where: str) -> dict[str, Any]:
    _check_size(data, where)
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise FormatError(f"{where}: expected a JSON object, got {type(document).__name__}")
    return document


def _check_size(data: bytes, where: str) -> None:
    """Bound what parsing takes, before it does: a gibibyte or so, whatever a stranger wrote."""
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS or data.count(b",") > MAX_COMMAS:
        raise FormatError(f"{where} has more than {MAX_CONTAINERS} lists and objects, or {MAX_COMMAS} commas; refused")
    if len(data) > MAX_WIDE_BYTES and not data.isascii():
        raise FormatError(f"{where} is longer than {MAX_WIDE_BYTES} bytes and not all ASCII; refused")


def _check_format(document: dict[str, Any], where: str) -> None:
    """Before the digest: another format may compute its digests in another way."""
    found = document.get("format")
    if type(found) is not int:
        raise FormatError(f"{where} does not say its format; expected format {FORMAT}")
    if found != FORMAT:
        raise FormatError(f"{where} is of format {found}, this version reads {FORMAT}; use another version of embedkd")


def _without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


def pack(column: "NDArray[Any]") -> str:
    """A column of numbers as base64 of its bytes, little-endian; `Fields.packed` is the inverse."""
    data = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
    return binascii.b2a_base64(data.view(np.uint8).data, newline=False).decode()


def _is_sealed(data: bytes, document: dict[str, Any], found: object) -> bool:
    """Whether the bytes are canonical and, without the digest, have that digest.

    A document may be long, so it is made canonical once: with its digest. Without it, it is these bytes without the one
    member; they cannot come twice, as no document holds its own digest elsewhere.
    """
    if not isinstance(found, str) or not _HEX_DIGEST.fullmatch(found) or not _says(data, document):
        return False
    return blake2b_hex(data.replace(f'"{DIGEST}":"{found}",'.encode(), b"", 1)) == found


def _is_sealed_group(data: bytes, content: dict[str, Any]) -> bool:
    """Whether sealing this content gives these bytes; what JSON cannot say (NaN, half a surrogate) never does."""
    try:
        return data == seal_group(content)
    except (ValueError, RecursionError):
        return False


def _says(data: bytes, document: dict[str, Any]) -> bool:
    try:
        return data == canonical_json(document)
    except (ValueError, RecursionError):
        return False
