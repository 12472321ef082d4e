"""Single objects of a store: taken with a limit and a reason, put once and read back."""

from typing import TYPE_CHECKING

from embedkd.errors import IntegrityError, ObjectExistsError, ObjectMissingError
from embedkd.records import canonical_json
from embedkd.store.documents import MAX_DOCUMENT_BYTES
from embedkd.store.schema import ROOT, group_metadata

if TYPE_CHECKING:
    from embedkd.storage import Storage

GROUP = canonical_json(group_metadata())


def fetch(storage: "Storage", key: str) -> bytes:
    """A document that must be there.

    Raises:
        IntegrityError: It is not.
    """
    try:
        return storage.get(key, limit_bytes=MAX_DOCUMENT_BYTES)
    except ObjectMissingError as error:
        raise IntegrityError(f"{storage.url} lacks {key}; restore it from a copy") from error


def fetch_expected(storage: "Storage", folder: str, metadata: bytes) -> None:
    """Check that a folder's ``zarr.json`` has exactly these bytes.

    Raises:
        IntegrityError: It has others, or is not there.
    """
    if fetch(storage, f"{folder}/{ROOT}") != metadata:
        raise IntegrityError(f"{folder}/{ROOT} is not what the store's specification derives; restore it")


def put_or_keep(storage: "Storage", key: str, data: bytes) -> bytes:
    """Create an object, or read the one that is there."""
    try:
        storage.put_new(key, data)
    except ObjectExistsError:
        return storage.get(key, limit_bytes=max(MAX_DOCUMENT_BYTES, 2 * len(data)))
    return data
