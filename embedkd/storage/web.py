"""Objects on a plain web server, for reading.

The standard library's client is used here and not the one for buckets: that one takes the whole body of an error into
memory, which is fine for a bucket of one's own and not for a stranger's server.
"""

import http.client
import re
import ssl
import time
from contextlib import closing
from typing import TYPE_CHECKING, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from embedkd.errors import ListingError, StorageError
from embedkd.storage.download import Body
from embedkd.storage.failures import BROKEN, NO_CONNECTION, NO_LENGTH, TOO_SLOW, UNKNOWN, Failure, Fault, of_status
from embedkd.storage.keys import key_parts
from embedkd.storage.location import Location
from embedkd.storage.remote import RemoteReader
from embedkd.storage.retries import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK_BYTES = 1 << 17
_LENGTH = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_REDIRECTS = 6
_ASTRAY = Failure(Fault.PERMANENT, "the server sends us elsewhere, and nowhere good; mend the URL")
_NOT_TRUSTED = Failure(Fault.PERMANENT, "the server's certificate is not trusted; set SSL_CERT_FILE or mend the URL")
# A bucket that is open to the world says so of what is not there, to whom may not list it.
_NOT_SHOWN = Failure(Fault.MISSING, "the server answered 403")


class WebStorage(RemoteReader):
    """Objects below a URL; safe for threads, forks and pickle: each request has a connection of its own.

    Args:
        location: The root.
        limits: What an operation may cost. ``read_s`` also bounds the time to a connection.
    """

    def __init__(self, location: Location, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(location, limits)
        self._opener = _opener()

    def __reduce__(self) -> "tuple[Callable[[Location, Limits], WebStorage], tuple[Location, Limits]]":
        return WebStorage, (self._location, self._limits)

    def path_of(self, key: str) -> str:
        """See `RemoteReader.path_of`."""
        return f"{quote(self.url, safe=':/%[]~')}/{quote('/'.join(key_parts(key, self.url)))}"

    def open_body(self, path: str, start: int, stop: int | None) -> Body:
        """See `Source`."""
        wanted = {} if stop is None and not start else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        response = self._send(Request(path, headers=wanted))
        try:
            first, size = _place(response, start, stop)
        except BaseException:
            response.close()
            raise
        identity = (size, response.headers.get("ETag"), response.headers.get("Last-Modified"))
        chunks = _chunks(response, time.monotonic() + self._limits.request_s)
        return Body(chunks, first, size, identity, response.close)

    def size_of(self, path: str) -> int:
        """See `RemoteReader.size_of`."""
        with closing(self._send(Request(path, method="HEAD"))) as response:
            return _place(response, 0, None)[1]

    def _send(self, request: Request) -> http.client.HTTPResponse:
        for _ in range(_REDIRECTS):
            try:
                response: http.client.HTTPResponse = self._opener.open(request, timeout=self._limits.read_s)
            except HTTPError as error:
                if error.code not in {301, 302, 303, 307, 308}:
                    raise
                error.close()
                url = redirected(request.full_url, error.headers.get("Location"))
                request = Request(url, headers=request.headers, method=request.get_method())
            else:
                return response
        raise _Refused(_ASTRAY)

    def failure_of(self, error: BaseException) -> Failure:
        """See `Source`."""
        if isinstance(error, _Refused):
            return error.failure
        if isinstance(error, HTTPError):
            error.close()
            return _NOT_SHOWN if error.code == 403 else of_status(error.code)
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            return TOO_SLOW
        if isinstance(reason, ssl.SSLCertVerificationError):
            return _NOT_TRUSTED
        if isinstance(error, URLError):
            return NO_CONNECTION
        if isinstance(error, ConnectionError | http.client.IncompleteRead | ssl.SSLError):
            return BROKEN
        if isinstance(error, OSError | http.client.HTTPException):
            return UNKNOWN
        raise error

    def list_names(self, prefix: str) -> list[str]:
        """There is no listing.

        Raises:
            ListingError: Always.
        """
        raise ListingError(
            f"{self.url} is plain HTTP, which cannot list what is there; a store is read from there only once it is "
            "sealed: run embedkd store seal on the original and copy it again"
        )

    def find(self, suffix: str, limit: int) -> list[tuple[str, int]]:
        """See `list_names`."""
        raise ListingError(f"{self.url} is plain HTTP, which cannot list what is there")

    def put_new(self, key: str, data: bytes) -> None:
        """Nothing can be written.

        Raises:
            StorageError: Always.
        """
        self._refuse(key)

    def replace(self, key: str, data: bytes) -> None:
        """See `put_new`."""
        self._refuse(key)

    def remove(self, key: str) -> None:
        """See `put_new`."""
        self._refuse(key)

    def _refuse(self, key: str) -> NoReturn:
        key_parts(key, self.url)
        raise StorageError(f"cannot write {self.url}/{key}: plain HTTP is for reading; use a folder or a bucket")


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """An answer that cannot be used."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.says)
        self.failure = failure


def _opener() -> OpenerDirector:
    """Of http and https alone, and without the library's redirects, which take the whole body of each into memory."""
    opener = OpenerDirector()
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler(), HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
        opener.add_handler(handler)
    return opener


def redirected(url: str, target: str | None) -> str:
    """Where a redirect leads: to a web server, and never from an encrypted place to an open one."""
    new = urljoin(url, target or "")
    schemes = (urlsplit(url).scheme, urlsplit(new).scheme)
    if not target or schemes[1] not in {"http", "https"} or schemes == ("https", "http"):
        raise _Refused(_ASTRAY)
    return quote(new, safe=":/%[]~?=&+,;@!$'()*")


def _place(response: http.client.HTTPResponse, start: int, stop: int | None) -> tuple[int, int]:
    """Which byte of the object comes first, and the size of the object."""
    length = response.headers.get("Content-Length", "")
    if not _LENGTH.fullmatch(length) or "Transfer-Encoding" in response.headers:
        raise _Refused(NO_LENGTH)
    if response.status != 206:
        return 0, int(length)
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    first, last, size = (int(number) for number in found.groups()) if found else (-1, -1, -1)
    if first != start or last != (size if stop is None else min(stop, size)) - 1:
        raise _Refused(Failure(Fault.TRANSIENT, "the server answered with another range than was asked for"))
    return first, size


def _chunks(response: http.client.HTTPResponse, until: float) -> "Iterator[bytes]":
    while chunk := response.read1(_CHUNK_BYTES):
        yield chunk
        if time.monotonic() > until:
            raise TimeoutError
