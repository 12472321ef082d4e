"""Parsed TOML to typed, frozen dataclasses: one line for a wrong type, the nearest names for an unknown key."""

import tomllib
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from embedkd.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")
_TEXTS: Final = tuple[str, ...]


class TypedText(str):
    """A value as it was typed; only the type of its key tells whether ``123`` is a number or a name."""

    __slots__ = ()

    def parse(self, hint: object) -> object:
        """The value for a key of that type: TOML, where text needs no quotes and ``none`` is no value."""
        if self == "none" and (NoneType in get_args(hint) or hint == _TEXTS):
            return None
        if hint in {str, str | None} and self[:1] not in {'"', "'"}:
            return str(self)
        try:
            parsed = tomllib.loads(f"value = {self}")
        except tomllib.TOMLDecodeError:
            return str(self)
        return parsed["value"] if len(parsed) == 1 else str(self)


def read_dataclass(kind: type[T], document: "Mapping[str, Any]") -> T:
    """A dataclass, and those within it, of a document of tables.

    Args:
        kind: The dataclass; its fields are bool, int, float, str, literals, tuples, tables of one type, dataclasses,
            and any of these or None.
        document: Field to value. An int will do for a float, a text or None for a list of texts; nothing else is
            converted.

    Raises:
        ConfigError: A value of another type than expected, a missing key, or what ``kind`` itself refuses.
        UnknownNameError: A key that is not there.
    """
    record = _Reader(kind).record(kind, document, "")
    assert isinstance(record, kind)
    return record


class _Reader:
    """Reads one document; knows every key there is, so that a key in the wrong section finds its right one."""

    def __init__(self, root: type) -> None:
        self.keys = _leaves(root, "")

    def record(self, kind: Any, document: object, key: str) -> object:
        table: dict[str, object] = _expect(isinstance(document, dict), "a table", document, key)
        hints, prefix = _hints(kind), f"{key}." if key else ""
        for name, value in table.items():
            if name not in hints:
                raise self._unknown_key(kind, prefix, name, value)
        for spec in fields(kind):
            if spec.name not in table and spec.default is spec.default_factory:  # both MISSING: it has no default
                raise ConfigError(f"{prefix}{spec.name}: expected a value, got none")
        return kind(**{name: self.value(hints[name], value, f"{prefix}{name}") for name, value in table.items()})

    def _unknown_key(self, kind: type, prefix: str, name: str, value: object) -> UnknownNameError:
        right_section = [key for key in self.keys if key.endswith(f".{name}")]
        if isinstance(value, dict) and value:
            name = f"{name}.{next(iter(value))}"
        return UnknownNameError("config key", f"{prefix}{name}", right_section or {*_leaves(kind, prefix), *self.keys})

    def value(self, hint: Any, value: object, key: str) -> Any:
        """The value as its type hint names it."""
        if isinstance(value, TypedText):
            value = value.parse(hint)
        origin, arguments = get_origin(hint), get_args(hint)
        if is_dataclass(hint):
            return self.record(hint, value, key)
        if origin in {Union, UnionType}:
            return self._union(arguments, value, key)
        if origin is Literal:
            if value not in arguments:
                raise UnknownNameError(key, str(value), arguments)
            return value
        if origin is tuple:
            return self._tuple(arguments, value, key)
        if origin is dict:
            table = _expect(isinstance(value, dict), "a table", value, key)
            return {name: self.value(arguments[1], entry, f"{key}.{name}") for name, entry in table.items()}
        if hint is float and type(value) is int:
            return float(value)
        return _expect(type(value) is hint, hint.__name__, value, key)

    def _union(self, arguments: tuple[Any, ...], value: object, key: str) -> Any:
        if value is None and NoneType in arguments:
            return None
        choices = [choice for choice in arguments if choice is not NoneType]
        if len(choices) == 1:
            return self.value(choices[0], value, key)
        return _expect(type(value) in choices, " or ".join(choice.__name__ for choice in choices), value, key)

    def _tuple(self, arguments: tuple[Any, ...], value: object, key: str) -> tuple[Any, ...]:
        if arguments == get_args(_TEXTS) and (value is None or isinstance(value, str)):
            value = [] if value is None else [str(value)]  # one text is a list of one, and runs of old had one or none
        items = _expect(isinstance(value, list | tuple), "a list", value, key)
        any_length = arguments[-1] is Ellipsis
        if not any_length and len(items) != len(arguments):
            raise ConfigError(f"{key}: expected {len(arguments)} values, got {len(items)}")
        kinds = arguments[:1] * len(items) if any_length else arguments
        return tuple(
            self.value(kind, item, f"{key}[{i}]") for i, (kind, item) in enumerate(zip(kinds, items, strict=True))
        )


def _expect(fits: bool, expected: str, value: object, key: str) -> Any:
    if not fits:
        raise ConfigError(f"{key or 'config'}: expected {expected}, got {type(value).__name__} {value!r}")
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _leaves(kind: Any, prefix: str) -> list[str]:
    """Dotted keys of a dataclass and of those within it."""
    leaves = []
    for name, hint in _hints(kind).items():
        leaves += _leaves(hint, f"{prefix}{name}.") if is_dataclass(hint) else [f"{prefix}{name}"]
    return leaves
