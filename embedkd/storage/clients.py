"""Clients of the library that speaks to object stores: where their settings come from, and what their errors mean.

Credentials come from the environment or from the usual config files, and stay inside the client. The library reads the
environment (``AWS_*``, ``GOOGLE_*``), instance and container roles, web identities and Google's files. It reads nothing
of the AWS files, so the keys of one profile are read here; roles to assume, SSO and credential processes are not:
export what they give.
"""

import os
import re
import threading
from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import GCSStore, MemoryStore, S3Store

from embedkd.errors import StorageError
from embedkd.storage.failures import (
    BAD_SETTINGS,
    BROKEN,
    DENIED,
    EXISTS,
    MISSING,
    NO_CONNECTION,
    NO_CREDENTIALS,
    NO_LENGTH,
    OTHER_REGION,
    PAST_END,
    TOO_SLOW,
    UNKNOWN,
    Failure,
    Fault,
    of_code,
    of_status,
)
from embedkd.storage.location import check_endpoint, is_loopback

if TYPE_CHECKING:
    from obstore.store import ObjectStore, S3Config

    from embedkd.storage.location import Location
    from embedkd.storage.retries import Limits

_S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_GS_ENDPOINTS = ("GOOGLE_BASE_URL",)
_TRUE = {"1", "true", "yes", "on"}
_STATUS = re.compile(r"Server returned non-2xx status code: ([1-5][0-9]{2})\b")
_ASKED_FOR_CREDENTIALS = re.compile(r"Error performing (token request|[A-Z]+ http://(169\.254\.|metadata\.))")
_EXPLAINED = 4_000  # characters of a message that are looked at; the rest may be a server's long answer
_IN_MESSAGES = {
    r"StartTooLarge": PAST_END,
    r"BareRedirect": OTHER_REGION,
    r"MissingContentLength": NO_LENGTH,
    r"kind: Builder|[Cc]redential": BAD_SETTINGS,
    r"HttpError \{\s*kind: Connect\b": NO_CONNECTION,
    r"HttpError \{\s*kind: Timeout\b": TOO_SLOW,
    r"HttpError \{\s*kind: (Interrupted|Request)\b": BROKEN,
}
_memories: dict[str, MemoryStore] = {}
_lock = threading.Lock()


def connect(location: "Location", limits: "Limits") -> "ObjectStore":
    """A client; nothing is sent yet.

    Raises:
        StorageError: A setting in the environment or in the AWS profile cannot be used.
    """
    try:
        return _connect(location, limits)
    except StorageError:
        raise
    except BaseException as error:
        failure = failure_of(error)
    raise StorageError(f"cannot open {location.url}: {failure.says}")


def _connect(location: "Location", limits: "Limits") -> "ObjectStore":
    retries = limits.retry_options()
    if location.scheme == "memory":
        with _lock:
            return _memories.setdefault(location.host, MemoryStore())
    if location.scheme == "s3":
        settings = _aws_profile()
        allow_http = _allows_http(_S3_ENDPOINTS, settings.get("endpoint"))
        options = limits.client_options(allow_http=allow_http)
        return S3Store(location.host, config=settings, client_options=options, retry_config=retries)
    options = limits.client_options(allow_http=_allows_http(_GS_ENDPOINTS, None))
    return GCSStore(location.host, client_options=options, retry_config=retries)


def _allows_http(names: tuple[str, ...], from_profile: str | None) -> bool:
    """Whether requests may be sent unencrypted: to this machine, or where AWS_ALLOW_HTTP says so.

    Raises:
        StorageError: An endpoint cannot be used, or is plain HTTP elsewhere.
    """
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    if not given and from_profile:
        given = {"endpoint_url of the AWS profile": from_profile}
    for name, endpoint in given.items():
        check_endpoint(name, endpoint)
    plain = [name for name, endpoint in given.items() if endpoint.startswith("http://") and not is_loopback(endpoint)]
    wanted = os.environ.get("AWS_ALLOW_HTTP", "").lower() in _TRUE
    if plain and not wanted:
        raise StorageError(f"{plain[0]} is not encrypted; use https, or allow it with AWS_ALLOW_HTTP=true")
    return wanted or any(endpoint.startswith("http://") for endpoint in given.values())


def _aws_profile() -> "S3Config":
    """Of the AWS profile, what the environment does not say: the keys, the region, the endpoint."""
    profile = os.environ.get("AWS_PROFILE") or "default"
    found = {
        **_section("AWS_CONFIG_FILE", "config", "default" if profile == "default" else f"profile {profile}"),
        **_section("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile),
    }
    settings: S3Config = {"disable_bulk_delete": True}  # few servers besides Amazon's know how to
    elsewhere = os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE")
    if not elsewhere and {"aws_access_key_id", "aws_secret_access_key"} <= found.keys():
        settings["access_key_id"] = found["aws_access_key_id"]
        settings["secret_access_key"] = found["aws_secret_access_key"]
        if "aws_session_token" in found:
            settings["session_token"] = found["aws_session_token"]
    if "region" in found and not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        settings["region"] = found["region"]
    if "endpoint_url" in found and not any(os.environ.get(name) for name in _S3_ENDPOINTS):
        settings["endpoint"] = found["endpoint_url"]
    return settings


def _section(variable: str, name: str, section: str) -> dict[str, str]:
    """One section of one of the two AWS files; empty where there is none.

    Raises:
        StorageError: The file is not one that can be read. Its lines are not told.
    """
    path = Path(os.environ.get(variable) or Path("~/.aws").expanduser() / name)
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text("utf-8"))
        return dict(parser[section]) if parser.has_section(section) else {}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ConfigError, ValueError):
        pass  # its message holds lines of the file; raised from here it would be shown
    raise StorageError(f"cannot read the AWS file '{name}'; mend it, or set {variable} to another one")


def failure_of(error: BaseException) -> Failure:
    """What an error of the library means. Any other error is raised again."""
    if type(error).__module__ == "pyo3_runtime":  # a panic, which is no Exception
        return BAD_SETTINGS
    if not isinstance(error, BaseError | FileNotFoundError | ValueError):
        raise error
    message = str(error)[:_EXPLAINED]
    found = _STATUS.search(message)
    answered = of_status(int(found[1])) if found else None
    if _ASKED_FOR_CREDENTIALS.search(message):
        return answered if answered and answered.fault is Fault.TRANSIENT else NO_CREDENTIALS
    return (of_code(message) if found else None) or answered or _unanswered(error, message)


def _unanswered(error: BaseException, message: str) -> Failure:
    """Of an error that no answer of a server stands behind."""
    if isinstance(error, FileNotFoundError):
        return MISSING
    if isinstance(error, AlreadyExistsError):
        return EXISTS
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return DENIED
    if isinstance(error, ValueError):
        return BAD_SETTINGS
    return next((failure for sign, failure in _IN_MESSAGES.items() if re.search(sign, message)), UNKNOWN)
