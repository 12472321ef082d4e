"""Files that are there completely or not at all, and stay there.

A new file gets its bytes before its name: it is written without a name where the system can do that, fsynced, and named
by a hard link, which fails where the name exists.
"""

import errno
import os
import stat
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from embedkd.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
_NAMES_OF_FILES = Path("/proc/self/fd")


@contextmanager
def open_regular(path: Path) -> "Iterator[tuple[BinaryIO, int]]":
    """A regular file, open for reading, and its size in bytes.

    A folder that came from a stranger may hold a pipe, which would block for ever, or a link to a device without end.

    Raises:
        StorageError: It is no regular file.
        OSError: It cannot be opened.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise StorageError(f"cannot read {path}: it is no regular file")
        yield file, facts.st_size


def read_regular(path: Path, limit_bytes: int | None = None) -> bytes:
    """All bytes of a regular file, or the first ``limit_bytes + 1`` of a longer one; raises as `open_regular`."""
    with open_regular(path) as (file, size):
        return file.read(size if limit_bytes is None else min(size, limit_bytes + 1))


def write_atomic(path: Path, data: bytes) -> None:
    """Replace one file by new bytes: after a crash it holds the old ones or the new ones, and is durable.

    Raises:
        StorageError: The bytes could not be written; the old file is as it was.
    """
    temporary = temporary_name(path)
    try:
        make_folder(path.parent)
        with temporary.open("xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):  # it has its final name, or was never made
            temporary.unlink()
    sync_folder(path.parent)


def write_error(path: Path, error: OSError) -> StorageError:
    """An OSError of a write as one line that says what to do."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageError(
            f"no space left to write {path}; free some and run the same command again (train: with --resume)"
        )
    return StorageError(f"cannot write {path}: {error.strerror or error}")


@contextmanager
def unnamed_file(path: Path) -> "Iterator[tuple[int, Callable[[], None]]]":
    """An open file without a name beside ``path``, and the call that gives it that name if it is free.

    Linux makes such files with O_TMPFILE: the kernel drops them with the process. Where a file system has no O_TMPFILE
    a hidden ``.tmp`` file stands in, which a SIGKILL can leave behind and which no reader looks at.

    Raises:
        FileExistsError: By the returned call, where the name is taken.
    """
    handle = _nameless(path.parent)
    if handle is not None:
        try:
            # Any src_dir_fd makes CPython call linkat(AT_SYMLINK_FOLLOW), which can name a nameless file; link cannot.
            yield (
                handle,
                lambda: os.link(_NAMES_OF_FILES / str(handle), path, src_dir_fd=handle, follow_symlinks=True),
            )
        finally:
            os.close(handle)
        return
    temporary = temporary_name(path)
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    try:
        yield handle, lambda: os.link(temporary, path)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def _nameless(folder: Path) -> int | None:
    """A file that has no name yet, or None where the system cannot make one and name it later."""
    if not hasattr(os, "O_TMPFILE") or not _NAMES_OF_FILES.is_dir():
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in _NO_TMPFILE:
            return None
        raise


def temporary_name(path: Path) -> Path:
    """A hidden name beside a file that no other writer has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def is_temporary(name: str) -> bool:
    """Whether `temporary_name` made this name; a killed process may have left the file."""
    return name.startswith(".") and name.endswith(".tmp")


def write_all(handle: int, data: bytes) -> None:
    """Write every byte; one os.write may take fewer."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, each durable in its parent.

    Raises:
        NotADirectoryError: A file has the name of the folder or of a parent.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file") from error
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable; a no-op where folders cannot be opened or synced.

    Raises:
        StorageError: The disk failed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise StorageError(f"cannot make {folder} durable: {error.strerror}") from error
    finally:
        os.close(handle)
