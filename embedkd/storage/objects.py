"""Objects below a root: created once (`put_new`), never half, never overwritten.

A killed process leaves nothing behind, and a stalled one that wakes up can change nothing. A key is a POSIX path.
"""

import os
import stat
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote

from embedkd.errors import ObjectExistsError, ObjectMissingError, StorageError
from embedkd.storage.files import (
    is_temporary,
    make_folder,
    read_regular,
    sync_folder,
    unnamed_file,
    write_all,
    write_error,
)


class Storage(Protocol):
    """What a store needs of the place where it lives."""

    @property
    def url(self) -> str:
        """The root, as a person would type it."""
        ...

    def get(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        """All bytes of one object.

        Args:
            key: The object.
            limit_bytes: Of a longer object only so many and one more are read: enough to see that it is too long.

        Raises:
            ObjectMissingError: There is no such object.
            StorageError: It is there and cannot be read.
        """
        ...

    def put_new(self, key: str, data: bytes) -> None:
        """Create one object, durably, whole or not at all.

        Raises:
            ObjectExistsError: The key is taken; nothing was changed.
            StorageError: The bytes could not be written. There is no object, unless only the last step failed, which
                makes its name durable: then it is whole.
        """
        ...

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        ...

    def list_names(self, prefix: str) -> list[str]:
        """Sorted names directly below a prefix: objects and sub-prefixes; empty where the prefix does not exist."""
        ...


class LocalStorage:
    """A folder on a local disk.

    Args:
        root: The folder; it is created by the first `put_new`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        """The folder as it was given."""
        return str(self.root)

    def path(self, key: str) -> Path:
        """The file of a key.

        Raises:
            StorageError: The key would leave the root.
        """
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or ".." in parts or "\\" in key or "\0" in key:
            raise StorageError(f"expected a key below {self.root}, got {key!r}")
        return self.root.joinpath(*parts)

    def get(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        """See `Storage.get`."""
        path = self.path(key)
        try:
            return read_regular(path, limit_bytes)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ObjectMissingError(f"{self.root} has no object {key}") from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error

    def put_new(self, key: str, data: bytes) -> None:
        """See `Storage.put_new`."""
        path = self.path(key)
        try:
            make_folder(path.parent)
            created = not os.path.lexists(path) and _create(path, data)  # a rerun finds all there and writes nothing
        except OSError as error:
            raise write_error(path, error) from error
        # Also where another writer made it, who may not have come to this: our commit must not outlive their object.
        sync_folder(path.parent)
        if not created:
            raise ObjectExistsError(f"{path} exists already")

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        path = self.path(key)
        try:
            return stat.S_ISREG(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StorageError(f"cannot look at {path}: {error.strerror}") from error

    def list_names(self, prefix: str) -> list[str]:
        """See `Storage.list_names`."""
        folder = self.path(prefix) if prefix else self.root
        try:
            return sorted(name for name in os.listdir(folder) if not is_temporary(name))  # noqa: PTH208 - names only
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StorageError(f"cannot list {folder}: {error.strerror}") from error


def _create(path: Path, data: bytes) -> bool:
    """Make one file, or say that there is one."""
    with unnamed_file(path) as (handle, name_it):
        write_all(handle, data)
        os.fsync(handle)
        try:
            name_it()
        except FileExistsError:
            return False
    return True


def open_storage(url: str) -> Storage:
    """The storage behind a path or URL.

    Raises:
        StorageError: The URL has a scheme that cannot be opened.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalStorage(Path(url))
    if scheme == "file" and rest.startswith("/"):
        return LocalStorage(Path(unquote(rest)))
    raise StorageError(f"expected a local path, got {url}; copy the data to a local disk and name it there")
