"""URLs of storages: what may stand in one. Never credentials."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from embedkd.errors import StorageError
from embedkd.storage.keys import key_parts

# How a person types each kind, for messages; a URL that is refused may hold a secret and is never repeated.
FORMS = {
    "s3": "s3://bucket/prefix",
    "gs": "gs://bucket/prefix",
    "http": "http://host/folder",
    "https": "https://host/folder",
    "memory": "memory://name",
}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,20}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_HOST = re.compile(r"([A-Za-z0-9][A-Za-z0-9.-]{0,253}|\[[0-9a-fA-F:.]{2,45}\])(:[0-9]{1,5})?")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Location:
    """A URL in parts.

    Attributes:
        scheme: A key of `FORMS`.
        host: The bucket, the host with its port, or the name.
        prefix: The rest without slashes at its ends; may be empty.
    """

    scheme: str
    host: str
    prefix: str

    @property
    def url(self) -> str:
        """As a person would type it."""
        return f"{self.scheme}://{self.host}/{self.prefix}".rstrip("/")

    @classmethod
    def of(cls, url: str) -> "Location":
        """Take a URL apart.

        Raises:
            StorageError: It is of a kind that cannot be opened, or holds more than a place.
        """
        scheme, _, rest = url.partition("://")
        if scheme not in FORMS:
            named = f"{scheme}://" if _SCHEME.fullmatch(scheme) else "something else"
            raise StorageError(f"expected a local path or a URL like {', '.join(FORMS.values())}, got {named}")
        if "@" in rest:
            raise StorageError(
                f"expected {FORMS[scheme]}, got a URL with an '@': credentials belong into the environment or the "
                "usual config files, never into a URL"
            )
        host, _, prefix = rest.partition("/")
        remarks = "?" in rest or "#" in rest
        if remarks or not (_HOST if scheme.startswith("http") else _BUCKET).fullmatch(host):
            raise StorageError(f"expected {FORMS[scheme]} and nothing more, got another {scheme}:// URL")
        prefix = prefix.strip("/")
        if prefix:
            prefix = "/".join(key_parts(prefix, f"{scheme}://{host}"))
            key_parts(unquote(prefix), f"{scheme}://{host}")
        return cls(scheme, host, prefix)


def is_loopback(endpoint: str) -> bool:
    """Whether an http URL leads to this machine."""
    return urlsplit(endpoint).hostname in _LOOPBACK


def check_endpoint(name: str, value: str) -> None:
    """Check an endpoint that comes from the environment or a config file.

    Raises:
        StorageError: It is no plain http or https URL; only its name is told, the value may hold a secret.
    """
    scheme, _, rest = value.partition("://")
    if scheme not in {"http", "https"} or not re.fullmatch(rf"({_HOST.pattern})(/[A-Za-z0-9._/-]*)?", rest):
        raise StorageError(f"expected a URL like https://host:port in {name}, without credentials")
