"""Objects below a root: created once (`put_new`), never half, never overwritten.

A killed process leaves nothing behind, and a stalled one that wakes up can change nothing. A key is a POSIX path.
"""

import os
import stat
from typing import TYPE_CHECKING, Protocol

from embedkd.errors import ObjectExistsError, ObjectMissingError, StorageError
from embedkd.storage.files import (
    is_temporary,
    make_folder,
    open_regular,
    read_regular,
    sync_folder,
    unnamed_file,
    write_all,
    write_atomic,
    write_error,
)
from embedkd.storage.keys import check_range, key_parts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CHUNK_BYTES = 1 << 20


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
                makes its name durable, or a server's answer was lost: then it is whole.
        """
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """``length`` bytes from byte ``start`` on; fewer, or none, where the object ends before. Raises as `get`."""
        ...

    def stream(self, key: str, start: int = 0) -> "Iterator[bytes]":
        """The bytes from ``start`` to the end in chunks of any size; raises as `get`, when it is iterated over."""
        ...

    def size(self, key: str) -> int:
        """Length of one object in bytes; raises as `get`."""
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Put one object, durably, whole or not at all, over one that may be there.

        Only for what is no target and no commit: two writers that do this at once overwrite each other.

        Raises:
            StorageError: The bytes could not be written; what was there is there.
        """
        ...

    def remove(self, key: str) -> None:
        """Remove one object; one that is not there is as good.

        Raises:
            StorageError: It could not be removed.
        """
        ...

    def exists(self, key: str) -> bool:
        """Whether the object is there.

        Raises:
            StorageError: Nobody can tell.
        """
        ...

    def list_names(self, prefix: str) -> list[str]:
        """Sorted names directly below a prefix: objects and sub-prefixes; empty where the prefix does not exist.

        Raises:
            StorageError: It cannot be listed.
        """
        ...


class LocalStorage:
    """A folder on a local disk.

    Args:
        root: The folder; it is created by the first `put_new`.
    """

    def __init__(self, root: "Path") -> None:
        self.root = root

    @property
    def url(self) -> str:
        """The folder as it was given."""
        return str(self.root)

    def path(self, key: str) -> "Path":
        """The file of a key.

        Raises:
            StorageError: The key would leave the root.
        """
        return self.root.joinpath(*key_parts(key, self.url))

    def _owned(self, key: str) -> "Path":
        """The file of a key that is written or removed: no link of a stranger's folder may lead that out of it.

        Raises:
            StorageError: One would.
        """
        path = self.path(key)
        for folder in path.parents:
            if folder == self.root:
                break
            if folder.is_symlink():
                raise StorageError(f"cannot write {path}: {folder} is a link; copy the store to make it your own")
        return path

    def get(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        """See `Storage.get`."""
        path = self.path(key)
        try:
            return read_regular(path, limit_bytes)
        except OSError as error:
            raise self.read_error(key, error) from error

    def read_error(self, key: str, error: OSError) -> StorageError:
        """An OSError of a read as the error that it means."""
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return ObjectMissingError(f"{self.root} has no object {key}")
        return StorageError(f"cannot read {self.path(key)}: {error.strerror}")

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Storage.get_range`."""
        check_range(start, length)
        path = self.path(key)
        try:
            with open_regular(path) as (file, size):
                file.seek(start)
                return file.read(min(length, max(size - start, 0)))
        except OSError as error:
            raise self.read_error(key, error) from error

    def stream(self, key: str, start: int = 0) -> "Iterator[bytes]":
        """See `Storage.stream`."""
        path = self.path(key)
        try:
            with open_regular(path) as (file, _):
                file.seek(start)
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise self.read_error(key, error) from error

    def size(self, key: str) -> int:
        """See `Storage.size`."""
        path = self.path(key)
        try:
            with open_regular(path) as (_, size):
                return size
        except OSError as error:
            raise self.read_error(key, error) from error

    def put_new(self, key: str, data: bytes) -> None:
        """See `Storage.put_new`."""
        path = self._owned(key)
        try:
            make_folder(path.parent)
            created = not os.path.lexists(path) and _create(path, data)  # a rerun finds all there and writes nothing
        except OSError as error:
            raise write_error(path, error) from error
        # Also where another writer made it, who may not have come to this: our commit must not outlive their object.
        sync_folder(path.parent)
        if not created:
            raise ObjectExistsError(f"{path} exists already")

    def replace(self, key: str, data: bytes) -> None:
        """See `Storage.replace`."""
        write_atomic(self._owned(key), data)

    def remove(self, key: str) -> None:
        """See `Storage.remove`."""
        path = self._owned(key)
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error.strerror}") from error
        sync_folder(path.parent)

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


def _create(path: "Path", data: bytes) -> bool:
    """Make one file, or say that there is one."""
    with unnamed_file(path) as (handle, name_it):
        write_all(handle, data)
        os.fsync(handle)
        try:
            name_it()
        except FileExistsError:
            return False
    return True
