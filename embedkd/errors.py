"""The exceptions of embedkd, one tree, a branch a layer.

EmbedKDError
├── ConfigError            a config file, flag or name that cannot be used
│   └── UnknownNameError   a name that is in no table; says the nearest ones
├── StorageError           bytes could not be written or read
│   ├── ObjectExistsError  a create-only put found an object there
│   ├── ObjectMissingError a read found nothing there
│   └── ListingError       a place that cannot list its objects was asked what it has
├── SourceError            shards and samples
│   ├── ShardError         a tar that is missing, cut, empty or not a tar
│   └── ImageError         an image that cannot or must not be decoded
├── TeacherError           a teacher that cannot be loaded or run
├── StoreError             embedding stores
│   ├── FormatError        metadata that is not a store of a format this version reads
│   ├── IntegrityError     bytes that differ from what their commit says
│   ├── ConflictError      another writer committed something else
│   └── HoleError          rows that are asked for and were never committed
├── JoinError              a store and shards that do not belong together
├── LossError              tensors that a loss cannot use
├── TrainingError          a run that cannot start or go on
│   └── CheckpointError    a checkpoint that cannot be resumed
└── Interrupted            Ctrl-C or SIGTERM, after everything was put in order

Messages are for people: one or two lines that say what was expected, what came, and what to do next. The command line
prints them without a traceback and exits with code 1. Errors of other libraries are renamed at the boundary, with
``raise ... from``.

Much of what is shown to people was written by strangers: class names, licences, names of shards. `printable` is the one
place that makes it harmless; every message, line, table and page goes through it.
"""

import re
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


_SHOWN_NAMES = 30  # of a table, where none is near to what came
_SHOWN_CHARACTERS = 100  # of one of them
_COMPARED_NAMES = 1_000  # comparing takes up to a millisecond a name, and a table may be a stranger's
# What terminals and browsers act on, hide, or cannot encode: controls, line ends, marks that turn text around, tags and
# halves of surrogates. Joiners (U+200C, U+200D) stay: scripts and emoji need them.
_ACTIVE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str, limit: int | None = None) -> str:
    r"""Text of a stranger on one line: what a terminal or a browser would act on or hide is spelt out.

    Args:
        text: Any text.
        limit: Characters of it that are shown at most; the rest becomes three dots.

    >>> print(printable("\x1b[31mred\n\u202eabc"), printable("x" * 50, 8))
    \x1b[31mred\n\u202eabc xxxxx...
    """
    cut = text if limit is None or len(text) <= limit else text[: limit - 3] + "..."
    return _ACTIVE.sub(lambda found: repr(found[0])[1:-1], cut)


def printable_lines(text: str) -> str:
    """The same for text of our own that may have several lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


class EmbedKDError(Exception):
    """Base of every error that embedkd raises on purpose."""

    def __str__(self) -> str:
        """The message, whatever a stranger's texts in it hold; line ends are ours."""
        return printable_lines(super().__str__())


class ConfigError(EmbedKDError):
    """A config file, flag or name that cannot be used."""


class UnknownNameError(ConfigError):
    """A name that is in no table.

    Args:
        kind: What the name should have named, as a person says it ("teacher", "config key").
        name: The name that came.
        valid: Every name that would have been right.
    """

    def __init__(self, kind: str, name: str, valid: "Iterable[str]") -> None:
        known = sorted(valid)
        shown = [printable(one, _SHOWN_CHARACTERS) for one in islice(known, _COMPARED_NAMES)]
        near = get_close_matches(name[:_SHOWN_CHARACTERS], shown, n=3, cutoff=0.5)
        more = f" and {len(known) - _SHOWN_NAMES} more" if len(known) > _SHOWN_NAMES else ""
        listed = f"known: {', '.join(shown[:_SHOWN_NAMES]) or 'none'}{more}"
        hint = f"did you mean {' or '.join(near)}?" if near else listed
        super().__init__(f"unknown {kind} '{printable(name, _SHOWN_CHARACTERS)}'; {hint}")
        self.kind = kind
        self.name = name
        self.valid = tuple(known)

    def __reduce__(self) -> "tuple[type[UnknownNameError], tuple[str, str, tuple[str, ...]]]":
        """Errors cross process boundaries; by default only the message would."""
        return UnknownNameError, (self.kind, self.name, self.valid)


class StorageError(EmbedKDError):
    """Bytes could not be written or read."""


class ObjectExistsError(StorageError):
    """A create-only put found an object there."""


class ObjectMissingError(StorageError):
    """A read found nothing there."""


class ListingError(StorageError):
    """A place that cannot list its objects was asked what it has."""


class SourceError(EmbedKDError):
    """Shards and samples that cannot be used."""


class ShardError(SourceError):
    """A tar that is missing, cut, empty or not a tar."""


class ImageError(SourceError):
    """An image that cannot or must not be decoded."""


class TeacherError(EmbedKDError):
    """A teacher that cannot be loaded or run."""


class StoreError(EmbedKDError):
    """An embedding store that cannot be used."""


class FormatError(StoreError):
    """Metadata that is not a store of a format this version reads."""


class IntegrityError(StoreError):
    """Bytes that differ from what their commit says."""


class ConflictError(StoreError):
    """Another writer committed something else."""


class HoleError(StoreError):
    """Rows that are asked for and were never committed."""


class JoinError(EmbedKDError):
    """A store and shards that do not belong together."""


class LossError(EmbedKDError):
    """Tensors that a loss cannot use."""


class TrainingError(EmbedKDError):
    """A run that cannot start or go on."""


class CheckpointError(TrainingError):
    """A checkpoint that cannot be resumed."""


class Interrupted(EmbedKDError):  # noqa: N818 - it is an outcome, not a fault
    """Ctrl-C or SIGTERM, after everything was put in order."""
