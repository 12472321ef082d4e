"""From a path or URL to the storage behind it."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from embedkd.storage.location import Location
from embedkd.storage.objects import LocalStorage, Storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedkd.storage.buckets import BucketStorage
    from embedkd.storage.retries import Limits
    from embedkd.storage.web import WebStorage


def open_storage(url: str, *, limits: "Limits | None" = None, tell: "Callable[[str], None] | None" = None) -> Storage:
    """The storage behind a path or URL; nothing is read, written or sent yet.

    Args:
        url: A local path, or a URL like those of `FORMS`, without credentials: those come from the environment or the
            usual config files, see `clients`.
        limits: What a remote operation may cost.
        tell: Called with a line for people where a server is not what it should be; by default it is logged.

    Raises:
        StorageError: The URL cannot be opened, or a setting that it needs cannot be used.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalStorage(Path(url))
    if scheme == "file" and rest.startswith("/"):
        return LocalStorage(Path(unquote(rest)))
    return open_remote(url, limits=limits, tell=tell)


def open_remote(
    url: str, *, limits: "Limits | None" = None, tell: "Callable[[str], None] | None" = None
) -> "BucketStorage | WebStorage":
    """The storage behind a URL that is not of a local file; arguments and errors as of `open_storage`."""
    location = Location.of(url)

    # Only now: no client is needed for a folder.
    from embedkd.storage.retries import DEFAULT_LIMITS

    if location.scheme in {"http", "https"}:
        from embedkd.storage.web import WebStorage

        return WebStorage(location, limits or DEFAULT_LIMITS)
    from embedkd.storage.buckets import BucketStorage

    return BucketStorage(location, limits or DEFAULT_LIMITS, tell)
