"""Where shards lie: a root, which is a folder, a URL or a symbolic name, and shards named below it.

Names are relative to the root, so what is remembered of a data set stays true where the root lies elsewhere.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from embedkd.errors import ObjectMissingError, ShardError, StorageError, UnknownNameError
from embedkd.records import ELSEWHERE
from embedkd.storage import LocalStorage, open_storage
from embedkd.storage.reading import open_object, open_ranges

if TYPE_CHECKING:
    import io

    from embedkd.storage import Storage
    from embedkd.storage.reading import ObjectRanges

SYMBOLIC = "data:"
EMBEDDED = ("clipart",)


def root_folder(root: str) -> Path:
    """The folder of a local root.

    Raises:
        ShardError: A store remembers that its data lies elsewhere.
        UnknownNameError: A symbolic name that no package carries.
    """
    if not root.startswith(SYMBOLIC):
        return Path(root)
    name = root.removeprefix(SYMBOLIC)
    if root == ELSEWHERE:
        raise ShardError("the store does not know where its shards lie from here; name their place with --data")
    if name not in EMBEDDED:
        raise UnknownNameError("embedded data set", root, [SYMBOLIC + known for known in EMBEDDED])
    package = Path(str(resources.files("embedkd")))
    carried = package / "_data" / name
    return carried if carried.is_dir() else package.parent / "data" / name / "shards"


def open_root(root: str) -> "Storage":
    """The storage whose keys are the names of shards; a process opens a root once.

    Raises:
        ShardError: A store remembers that its data lies elsewhere.
        StorageError: A URL cannot be opened.
        UnknownNameError: A symbolic name that no package carries.
    """
    return LocalStorage(root_folder(root)) if root.startswith(SYMBOLIC) else open_storage(root)


@dataclass(frozen=True)
class ShardSource:
    """One tar where it lies.

    Attributes:
        root: What `open_root` gave.
        name: Below the root; also its name in messages.

    Raises:
        ShardError: The name would leave the root.
    """

    root: "Storage"
    name: str

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def place(self) -> str:
        """Path or URL, for people."""
        return f"{self.root.url}/{self.name}"

    def size_bytes(self) -> int:
        """Length of the tar now.

        Raises:
            ShardError: There is no such tar, or it cannot be read.
        """
        try:
            return self.root.size(self.name)
        except StorageError as error:
            raise self._unreadable(error) from error

    def open(self) -> "io.BufferedReader":
        """The tar from its first byte on; memory is bounded, and connections that break are mended.

        Raises:
            ShardError: There is no such tar, or its first byte cannot be read; later reads raise a StorageError.
        """
        file = open_object(self.root, self.name)
        try:
            file.peek(1)
        except StorageError as error:
            raise self._unreadable(error) from error
        return file

    def ranges(self) -> "ObjectRanges":
        """Ranges of the tar in any order.

        Raises:
            ShardError: There is no such tar, or it cannot be read.
        """
        try:
            return open_ranges(self.root, self.name)
        except StorageError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: StorageError) -> ShardError:
        reason = str(error)
        if isinstance(error, ObjectMissingError):
            reason = f"there is none at {self.root.url}; restore it, or name the shards' place with --data"
        return ShardError(f"cannot open shard {self.name}: {reason}")


def check_name(name: str) -> None:
    """Refuse a shard's name that would leave its root.

    Raises:
        ShardError: It would.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or "://" in name:
        raise ShardError(
            f"expected a shard below its data folder, got {name!r}; the index or manifest is not to be trusted"
        )
