"""Patterns of names: braces, as webdataset expands them, and the wildcards of a shell, for places without a disk."""

import fnmatch
import re
from itertools import product
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from embedkd.errors import ShardError

if TYPE_CHECKING:
    from collections.abc import Iterable

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_FIXED = re.compile(r"[^*?\[{]*")
_WILD = re.compile(r"[*?\[]")
MAX_NAMES = 1 << 22  # that a pattern may stand for


def has_pattern(text: str) -> bool:
    """Whether a name stands for others."""
    return _WILD.search(text) is not None or _BRACES.search(text) is not None


def has_wildcard(text: str) -> bool:
    """Whether only a listing can tell what a name stands for."""
    return _WILD.search(text) is not None


def fixed_folder(pattern: str) -> str:
    """The folder that all names lie below which a pattern stands for.

    >>> fixed_folder("a/b/{c/d,e}-*.tar"), fixed_folder("x-{0..3}.tar")
    ('a/b', '')
    """
    return _FIXED.match(pattern)[0].rpartition("/")[0]  # type: ignore[index]  # it matches everything


def expand_braces(pattern: str) -> list[str]:
    """``a-{000..002}{x,y}`` to all its strings, with leading zeros kept, as webdataset expands them.

    Raises:
        ShardError: A range falls, or the strings are too many.
    """
    parts = _BRACES.split(pattern)
    choices: list[list[str]] = []
    count = 1
    for i, part in enumerate(parts):
        choices.append([part] if i % 2 == 0 else _choices(part))
        count *= len(choices[-1])
        _check_count(count)
    return ["".join(combination) for combination in product(*choices)]


def _choices(inside: str) -> list[str]:
    match = _RANGE.fullmatch(inside)
    if match is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last = match.groups()
    if int(last) < int(first):
        raise ShardError(f"expected a rising range, got {{{inside}}}")
    _check_count(int(last) - int(first))
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [str(i).zfill(width) for i in range(int(first), int(last) + 1)]


def _check_count(count: int) -> None:
    if count > MAX_NAMES:
        raise ShardError(f"expected a pattern of up to {MAX_NAMES:,} names, got one of {count:,}")


def matching(pattern: str, names: "Iterable[str]") -> list[str]:
    """The names that a pattern with wildcards stands for, as a shell would find them on a disk.

    ``*``, ``?`` and ``[...]`` match inside one part of a path, ``**`` any number of folders; none matches a dot in
    front.

    >>> matching("a/*/t-[01].tar", ["a/b/t-0.tar", "a/b/c/t-0.tar", "a/.b/t-0.tar", "a/b/t-2.tar"])
    ['a/b/t-0.tar']
    """
    wanted = PurePosixPath(pattern).parts
    return [name for name in names if _matches(wanted, PurePosixPath(name).parts)]


def _matches(pattern: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        deeper = bool(parts) and not parts[0].startswith(".") and _matches(pattern, parts[1:])
        return deeper or _matches(pattern[1:], parts)
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(pattern[1:], parts[1:])
