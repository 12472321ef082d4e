"""Objects in a bucket: of S3 and what speaks it, of Google Cloud Storage; and in memory, for tests."""

import logging
import os
import threading
import uuid
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import obstore

from embedkd.errors import ObjectExistsError, ObjectMissingError, StorageError
from embedkd.storage import clients
from embedkd.storage.download import Body
from embedkd.storage.failures import EXISTS, Failure, Fault
from embedkd.storage.files import is_temporary
from embedkd.storage.keys import key_parts
from embedkd.storage.location import Location
from embedkd.storage.remote import RemoteReader
from embedkd.storage.retries import DEFAULT_LIMITS, Limits, Patience

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore import GetOptions
    from obstore.store import ObjectStore

_CHUNK_BYTES = 1 << 17
_PAGE = 1_000  # objects: what a server lists at a time
_log = logging.getLogger("embedkd.storage")
# The process in which the library's threads run; they do not survive a fork, and waiting for them never ends.
_started_in: list[int] = []


class BucketStorage(RemoteReader):
    """Objects below a prefix of a bucket; safe for threads.

    A copy that travels to another process by pickle has a client of its own there, with credentials from there.

    Args:
        location: The root.
        limits: What an operation may cost.
        tell: Called with a line for people where the server is not what it should be; by default it is logged.

    Raises:
        StorageError: A setting in the environment or in the AWS profile cannot be used.
    """

    def __init__(
        self, location: Location, limits: Limits = DEFAULT_LIMITS, tell: "Callable[[str], None] | None" = None
    ) -> None:
        super().__init__(location, limits)
        self._tell = tell or _log.warning
        self._client: ObjectStore = clients.connect(location, limits)
        self._creates_only: bool | None = None
        self._probing = threading.Lock()

    def __reduce__(self) -> "tuple[Callable[[str, Limits, int], BucketStorage], tuple[str, Limits, int]]":
        return _reopened, (self.url, self._limits, os.getpid())

    def path_of(self, key: str) -> str:
        """See `RemoteReader.path_of`."""
        parts = key_parts(key, self.url)
        self._enter()
        return "/".join((self._location.prefix, *parts)).lstrip("/")

    def _enter(self) -> None:
        """Note that the library is used in this process.

        Raises:
            StorageError: It was used before this process was forked.
        """
        pid = os.getpid()
        if not _started_in:
            _started_in.append(pid)
        if _started_in[0] != pid:
            raise StorageError(
                f"{self.url} cannot be used here: remote storage was used before this process was forked, which would "
                "hang; start workers with forkserver or spawn"
            )

    def failure_of(self, error: BaseException) -> Failure:
        """See `Source`."""
        return clients.failure_of(error)

    def open_body(self, path: str, start: int, stop: int | None) -> Body:
        """See `Source`."""
        options: GetOptions = {}
        if stop is not None:
            options["range"] = (start, stop)
        elif start:
            options["range"] = {"offset": start}
        result = obstore.get(self._client, path, options=options)
        meta = result.meta
        identity = (meta["size"], meta["e_tag"], meta["last_modified"] if meta["e_tag"] is None else None)
        chunks = (bytes(chunk) for chunk in result.stream(min_chunk_size=_CHUNK_BYTES))
        return Body(chunks, start, meta["size"], identity)

    def size_of(self, path: str) -> int:
        """See `RemoteReader.size_of`."""
        return obstore.head(self._client, path)["size"]

    def list_names(self, prefix: str) -> list[str]:
        """See `Storage.list_names`."""
        self._enter()
        path = self.path_of(prefix) if prefix else self._location.prefix
        found = self.asked(lambda: obstore.list_with_delimiter(self._client, path))
        if isinstance(found, Failure):
            raise self.error("list", prefix, found)
        below = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        names = {PurePosixPath(name).name for name in below if name != path}
        return sorted(name for name in names if not is_temporary(name))

    def find(self, suffix: str, limit: int) -> list[tuple[str, int]]:
        """See `RemoteReader.find`."""
        self._enter()
        found = self.asked(lambda: self._find_once(suffix, limit))
        if isinstance(found, Failure):
            raise self.error("list", "", found)
        if found is None:
            raise StorageError(f"{self.url} lists more than {limit:,} objects; name a smaller part of it")
        return found

    def _find_once(self, suffix: str, limit: int) -> list[tuple[str, int]] | None:
        """None where there are too many."""
        prefix, seen = self._location.prefix, 0
        found: list[tuple[str, int]] = []
        for page in obstore.list(self._client, prefix or None, chunk_size=_PAGE):
            seen += len(page)
            if seen > limit:
                return None
            paths = ((meta["path"].removeprefix(prefix).lstrip("/"), meta["size"]) for meta in page)
            found += [(key, size) for key, size in paths if key.endswith(suffix)]
        return sorted(found)

    def put_new(self, key: str, data: bytes) -> None:
        """See `Storage.put_new`.

        Where the server ignores that a put shall only create, this looks first and then puts: of two writers that do
        so at once the later one stays.
        """
        path = self.path_of(key)
        creates_only = self._probe()
        patience = Patience(self._limits)
        while True:
            failure = self._put_once(path, data, creates_only=creates_only)
            if failure is None or (failure.fault is Fault.EXISTS and patience.failed and self._holds(key, data)):
                return  # the second case: an earlier attempt got through, and its answer was lost
            if failure.fault is Fault.EXISTS:
                raise ObjectExistsError(f"{self.url}/{key} exists already")
            if failure.fault is not Fault.TRANSIENT or not patience.again():
                raise self.error("write", key, failure, patience.failed)

    def _put_once(self, path: str, data: bytes, *, creates_only: bool) -> Failure | None:
        try:
            if not creates_only and self._is_there(path):
                return EXISTS
            obstore.put(self._client, path, data, mode="create" if creates_only else "overwrite", use_multipart=False)
        except BaseException as error:
            return self.failure_of(error)
        return None

    def _is_there(self, path: str) -> bool:
        try:
            obstore.head(self._client, path)
        except FileNotFoundError:
            return False
        return True

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.get(key, limit_bytes=len(data)) == data
        except ObjectMissingError:
            return False

    def replace(self, key: str, data: bytes) -> None:
        """See `Storage.replace`."""
        path = self.path_of(key)
        done = self.asked(lambda: obstore.put(self._client, path, data, mode="overwrite", use_multipart=False))
        if isinstance(done, Failure):
            raise self.error("write", key, done)

    def remove(self, key: str) -> None:
        """See `Storage.remove`."""
        path = self.path_of(key)
        done = self.asked(lambda: obstore.delete(self._client, path))
        if isinstance(done, Failure) and done.fault is not Fault.MISSING:
            raise self.error("remove", key, done)

    def _probe(self) -> bool:
        """Whether a put can be made to create only; found out once, with an object that no reader looks at."""
        with self._probing:
            if self._creates_only is None:
                self._creates_only = self._find_out()
                if not self._creates_only:
                    self._tell(
                        f"{self.url} ignores that a put shall only create: an object is looked for and then put, so "
                        "two writers that disagree can overwrite each other; let one at a time write to it"
                    )
        return self._creates_only

    def _find_out(self) -> bool:
        path = self.path_of(f".probe-{uuid.uuid4().hex}.tmp")
        outcomes = [self._probe_once(path) for _ in range(2)]
        self.asked(lambda: obstore.delete(self._client, path), attempts=1)  # where it cannot be deleted it stays
        return Fault.EXISTS in outcomes

    def _probe_once(self, path: str) -> Fault | None:
        """Create the probe: None where it was created, EXISTS where it was refused.

        A first attempt that finds it there lost its answer, and has its answer all the same.
        """
        patience = Patience(self._limits)
        while True:
            failure = self._put_once(path, b"", creates_only=True)
            if failure is None or failure.fault in {Fault.EXISTS, Fault.UNSUPPORTED}:
                return failure.fault if failure else None
            if failure.fault is not Fault.TRANSIENT or not patience.again():
                raise self.error("write below", "", failure, patience.failed)


def _reopened(url: str, limits: Limits, pid: int) -> BucketStorage:
    location = Location.of(url)
    if location.scheme == "memory" and pid != os.getpid():
        raise StorageError(f"{url} is in the memory of another process; use a folder or a bucket")
    return BucketStorage(location, limits)
