"""No credential can be seen: not in an error, a repr, a pickle, a log line or a traceback, whatever a server echoes."""

import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from embedkd.errors import StorageError
from embedkd.storage import Storage, open_storage
from tests.storage.proxy import Breakage, Proxy, canned
from tests.storage.servers import HASTY, PLANTED, QUICK, SECRET_KEY

TWICE = replace(QUICK, attempts=2)
ECHO = " ".join(PLANTED).encode()


def _seen(error: BaseException) -> str:
    """Everything that a log or a debugger would show of an error."""
    shown = [repr(error), *traceback.format_exception(error)]
    shown.extend(_seen(other) for other in (error.__cause__, error.__context__) if other is not None)
    return "\n".join(shown)


def _calls(storage: Storage) -> list[Callable[[], object]]:
    """What fails whatever an error is answered; `exists` says no to a 404."""
    return [
        lambda: storage.get("key"),
        lambda: storage.get_range("key", 0, 9),
        lambda: list(storage.stream("key", 3)),
        lambda: storage.size("key"),
        lambda: storage.list_names("key"),
        lambda: storage.put_new("key", b"x"),
    ]


def _is_clean(*shown: str | bytes) -> bool:
    text = "\n".join(part if isinstance(part, str) else part.decode("latin-1") for part in shown)
    return not any(planted in text for planted in PLANTED)


@pytest.mark.parametrize("status", [b"400 x", b"403 x", b"404 x", b"409 x", b"412 x", b"500 x", b"501 x", b"503 x"])
@pytest.mark.parametrize("scheme", ["s3", "gs", "http"])
def test_what_a_server_echoes_goes_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: bytes, scheme: str
) -> None:
    caplog.set_level(logging.DEBUG)
    head = b"HTTP/1.1 %s %s\r\nX: %s\r\nContent-Length: %d\r\n\r\n" % (status, ECHO, ECHO, len(ECHO))
    with canned(head + ECHO) as (port, _):
        endpoint = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("GOOGLE_BASE_URL", endpoint)
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", SECRET_KEY)
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
        storage = open_storage({"s3": "s3://b/x", "gs": "gs://b/x", "http": endpoint}[scheme], limits=TWICE)
        for call in _calls(storage):
            with pytest.raises(StorageError) as caught:
                call()
            assert _is_clean(_seen(caught.value), pickle.dumps(caught.value))
            assert "\n" not in str(caught.value)
            assert caught.value.__context__ is None
    assert _is_clean(caplog.text, repr(storage), repr(vars(storage)), pickle.dumps(storage))


@pytest.mark.parametrize("breakage", [Breakage.DROP_BEFORE, Breakage.STALL, Breakage.ANSWER_503, Breakage.CUT_BODY])
def test_no_breakage_tells_a_credential(proxy: Proxy, bucket: str, breakage: Breakage) -> None:
    storage = open_storage(f"s3://{bucket}", limits=type(HASTY)(2, 0.001, 0.001, 1, 0.1, 1, 2))
    proxy.says = ECHO
    proxy.breaks(*[breakage] * 100)
    for call in (lambda: storage.put_new("key", b"x"), lambda: storage.list_names("")):
        with pytest.raises(StorageError) as caught:
            call()
        assert _is_clean(_seen(caught.value))


@pytest.mark.parametrize(
    "values",
    [
        {"AWS_ENDPOINT_URL": f"http://user:{SECRET_KEY}@127.0.0.1:1"},
        {"AWS_ENDPOINT_URL": f"not a url {SECRET_KEY}"},
        {"AWS_ENDPOINT_URL_S3": f"https://host/?{SECRET_KEY}"},
        {"AWS_ENDPOINT": f"ftp://{SECRET_KEY}"},
        {"AWS_ENDPOINT_URL": "http://storage.example.com"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": f"{SECRET_KEY}\n"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_SESSION_TOKEN": f"{SECRET_KEY}\r\nX: y"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_REGION": f"{SECRET_KEY} \n"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_CONDITIONAL_PUT": SECRET_KEY},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
    ],
)
def test_settings_that_cannot_be_used_are_named_and_not_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], values: dict[str, str]
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError) as caught:
        open_storage("s3://bucket/x", limits=HASTY).get("key")
    assert _is_clean(_seen(caught.value), "".join(capfd.readouterr()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_BASE_URL"],
)
def test_settings_of_google_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "account.json"
    broken.write_text(f'{{"private_key": "{SECRET_KEY}"')
    monkeypatch.setenv(name, str(broken) if "_KEY" not in name else SECRET_KEY)
    with pytest.raises(StorageError) as caught:
        open_storage("gs://bucket/x", limits=HASTY).get("key")
    assert _is_clean(_seen(caught.value))


@pytest.mark.parametrize("file", ["config", "credentials"])
def test_an_aws_file_that_cannot_be_read_is_named_and_not_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / file).write_text(f"aws_secret_access_key = {SECRET_KEY}\n[default\n")
    with pytest.raises(StorageError, match=rf"cannot read the AWS file '{file}'; mend it, or set AWS_\w+ ") as caught:
        open_storage("s3://bucket")
    assert _is_clean(_seen(caught.value))
    assert caught.value.__context__ is None


def test_a_storage_shows_and_pickles_no_credential(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    storage = open_storage(f"s3://{bucket}/x", limits=QUICK)
    storage.put_new("a", b"")
    assert repr(storage) == f"BucketStorage('s3://{bucket}/x')"
    assert _is_clean(repr(storage), str(storage), repr(vars(storage)), pickle.dumps(storage), storage.url, caplog.text)
