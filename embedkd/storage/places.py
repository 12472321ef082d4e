"""One place relative to another: local paths among themselves, and URLs of one bucket or host among themselves."""

import os
import posixpath
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from embedkd.errors import StorageError
from embedkd.storage.location import Location

_FILE = "file://"


def relative_place(place: str, base: str) -> str | None:
    """The way from one place to another, in POSIX notation; None where there is none, as from a bucket to a disk.

    Args:
        place: A local path or a URL.
        base: The same; the way begins inside of it.

    Raises:
        StorageError: One of them is a URL that cannot be opened.
    """
    there, here = _remote(place), _remote(base)
    if there is None and here is None:
        return Path(os.path.relpath(_local(place), _local(base))).as_posix()
    if there is None or here is None or (there.scheme, there.host) != (here.scheme, here.host):
        return None
    return posixpath.relpath("/" + there.prefix, "/" + here.prefix)


def place_from(base: str, relative: str) -> str:
    """Where a way leads that begins inside of a place: the inverse of `relative_place`.

    Raises:
        StorageError: It leads out of the bucket or host.
    """
    here = _remote(base)
    if here is None:
        return str((_local(base) / relative).resolve())
    parts = list(PurePosixPath(here.prefix).parts)
    for part in PurePosixPath(relative).parts:
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            raise StorageError(f"{relative!r} leads out of {here.scheme}://{here.host}; name the place itself")
    return Location.of(f"{here.scheme}://{here.host}/{'/'.join(parts)}").url


def is_remote(place: str) -> bool:
    """Whether this is a URL of something that is not a local disk."""
    return "://" in place and not place.startswith(_FILE)


def _remote(place: str) -> Location | None:
    return Location.of(place) if is_remote(place) else None


def _local(place: str) -> Path:
    return Path(unquote(place.removeprefix(_FILE)) if place.startswith(_FILE) else place).resolve()
