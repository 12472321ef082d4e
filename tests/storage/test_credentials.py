"""Credentials from the environment and from the usual files, and what a server is sent of them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedkd.errors import StorageError
from embedkd.storage import open_storage
from tests.storage.proxy import Proxy
from tests.storage.servers import ACCESS_KEY, QUICK, SECRET_KEY

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@pytest.fixture
def sent(bucket: str, s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Heads of all requests; the environment leads to the server."""
    heads: list[str] = []

    def note(request: bytes) -> bytes:
        heads.append(request.partition(b"\r\n\r\n")[0].decode())
        return request

    with Proxy(s3_port, rewrite=note).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        yield heads


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ~/.aws, and nothing in the environment."""
    for name in (*_KEYS, "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


def _signer(head: str) -> tuple[str, str]:
    """Access key and region of a signed request."""
    found = re.search(r"Credential=(\w+)/\d+/([\w-]+)/s3/", head)
    assert found is not None
    return found[1], found[2]


def _section(name: str, key: str, more: str = "") -> str:
    return f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = s3cret%(odd)s\n{more}\n"


def test_the_environment_is_used(sent: list[str], bucket: str) -> None:
    open_storage(f"s3://{bucket}", limits=QUICK).exists("a")
    assert _signer(sent[0]) == (ACCESS_KEY, "us-east-1")
    assert SECRET_KEY not in sent[0]


def test_the_default_profile_is_used(sent: list[str], bucket: str, aws: Path) -> None:
    (aws / "credentials").write_text(_section("default", "FROMDEFAULT", "aws_session_token = tok") + _section("o", "O"))
    (aws / "config").write_text("[default]\nregion = eu-west-3\n[profile o]\nregion = eu-west-1\n")
    open_storage(f"s3://{bucket}", limits=QUICK).exists("a")
    assert _signer(sent[0]) == ("FROMDEFAULT", "eu-west-3")
    assert "x-amz-security-token: tok" in sent[0]
    assert "s3cret" not in sent[0]


def test_a_named_profile_is_used(sent: list[str], bucket: str, aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (aws / "credentials").write_text(_section("default", "FROMDEFAULT"))
    (aws / "config").write_text(
        "[default]\nregion = eu-west-3\n" + _section("profile work", "FROMWORK", "region = eu-west-2")
    )
    monkeypatch.setenv("AWS_PROFILE", "work")
    open_storage(f"s3://{bucket}", limits=QUICK).exists("a")
    assert _signer(sent[0]) == ("FROMWORK", "eu-west-2")


def test_files_may_lie_elsewhere(
    sent: list[str], bucket: str, aws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text(_section("default", "FROMMINE"))
    (aws / "credentials").write_text(_section("default", "FROMDEFAULT"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "mine"))
    open_storage(f"s3://{bucket}", limits=QUICK).exists("a")
    assert _signer(sent[0]) == ("FROMMINE", "us-east-1")


def test_the_environment_goes_before_the_profile(
    sent: list[str], bucket: str, aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (aws / "credentials").write_text(_section("default", "FROMDEFAULT", "endpoint_url = http://127.0.0.1:1"))
    (aws / "config").write_text("[default]\nregion = eu-west-3\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    open_storage(f"s3://{bucket}", limits=QUICK).exists("a")
    assert _signer(sent[0]) == ("FROMENV", "eu-north-1")


def test_a_profile_can_name_the_endpoint(
    sent: list[str], bucket: str, aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    (aws / "credentials").write_text(_section("default", "FROMDEFAULT"))
    (aws / "config").write_text(f"[default]\nendpoint_url = {endpoint}\n")
    open_storage(f"s3://{bucket}", limits=QUICK).exists("a")
    assert _signer(sent[0])[0] == "FROMDEFAULT"
    (aws / "config").write_text("[default]\nendpoint_url = http://user:pw@127.0.0.1\n")
    with pytest.raises(StorageError, match="in endpoint_url of the AWS profile, without credentials"):
        open_storage(f"s3://{bucket}")


def test_a_public_bucket_needs_none(sent: list[str], bucket: str, aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    open_storage(f"s3://{bucket}", limits=QUICK).exists("a")
    assert "authorization" not in sent[0].lower()


def test_without_any_it_says_what_to_set(
    sent: list[str], bucket: str, aws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(1).running() as metadata:
        metadata.upstream = metadata.port  # never asked
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://169.254.0.1:1")
        hasty = type(QUICK)(2, 0.001, 0.001, 0.1, 0.1, 0.2, 1)
        with pytest.raises(StorageError, match="no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            open_storage(f"s3://{bucket}", limits=hasty).get("a")
    assert sent == []


def test_unencrypted_endpoints_elsewhere_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example.com")
    with pytest.raises(
        StorageError, match="AWS_ENDPOINT_URL is not encrypted; use https, or allow it with AWS_ALLOW_HTTP"
    ):
        open_storage("s3://bucket")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert open_storage("s3://bucket").url == "s3://bucket"
