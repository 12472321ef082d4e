"""Keys: POSIX paths below a root, which no key of a stranger's store can leave."""

import re
from pathlib import PurePosixPath

from embedkd.errors import StorageError

# A lone surrogate can be written in JSON and in no file system and no URL.
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")


def key_parts(key: str, root: str) -> tuple[str, ...]:
    """The names that a key is made of, at least one.

    Args:
        key: The key.
        root: Where it is below, for the message.

    Raises:
        StorageError: The key would leave the root, or no storage could hold it.
    """
    parts = PurePosixPath(key).parts
    if not parts or key.startswith("/") or ".." in parts or _UNUSABLE.search(key):
        raise StorageError(f"expected a key below {root}, got {key!r}")
    return parts


def check_range(start: int, length: int) -> None:
    """Check what `Storage.get_range` takes.

    Raises:
        ValueError: The range holds no byte.
    """
    if start < 0 or length < 1:
        raise ValueError(f"expected a start of at least 0 and a length of at least 1, got {start} and {length}")
