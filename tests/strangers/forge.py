"""A stranger's tools: a store in memory, and digests that are recomputed all the way up after anything was changed.

A digest is no signature. Whoever changes a document can seal it again, write the new digest into whatever names it, and
rename the folders that are called after it; `resealed` does all that, so that what it forges is as valid as can be.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c

from embedkd.errors import ObjectExistsError, ObjectMissingError
from embedkd.records import blake2b_hex, canonical_json
from embedkd.storage.keys import key_parts

Files = dict[str, bytes]
Document = dict[str, Any]

# Members of a specification that do not enter the fingerprint.
_DESCRIPTIONS = ("name", "source", "revision", "libraries", "licence", "derived_from")
_DIGEST = re.compile(r"[0-9a-f]{64}")
ROOT = "zarr.json"
_ROUNDS = 200  # one document each, and no store of these tests has so many


class Memory:
    """A store in memory; what it is asked is bounded, so that a search without an end fails.

    Args:
        files: Key to bytes; written to in place.
        most: Operations that are answered.
    """

    url = "memory://strangers/store.zarr"

    def __init__(self, files: Files, most: int = 50_000) -> None:
        self.files = files
        self.left = most

    def get(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        data = self._at(key)
        return data if limit_bytes is None else data[: limit_bytes + 1]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._at(key)[start : start + length]

    def stream(self, key: str, start: int = 0) -> Iterator[bytes]:
        yield self._at(key)[start:]

    def size(self, key: str) -> int:
        return len(self._at(key))

    def put_new(self, key: str, data: bytes) -> None:
        self._count(key)
        if key in self.files:
            raise ObjectExistsError(f"{key} exists already")
        self.files[key] = data

    def replace(self, key: str, data: bytes) -> None:
        self._count(key)
        self.files[key] = data

    def remove(self, key: str) -> None:
        self._count(key)
        self.files.pop(key, None)

    def exists(self, key: str) -> bool:
        self._count(key)
        return key in self.files

    def list_names(self, prefix: str) -> list[str]:
        start = f"{prefix.strip('/')}/".lstrip("/")
        self._count(prefix or "x")
        return sorted({key.removeprefix(start).split("/")[0] for key in self.files if key.startswith(start)})

    def _at(self, key: str) -> bytes:
        self._count(key)
        if key not in self.files:
            raise ObjectMissingError(f"{self.url} has no object {key}")
        return self.files[key]

    def _count(self, key: str) -> None:
        key_parts(key, self.url)  # as every real storage does
        self.left -= 1
        assert self.left > 0, f"asked without an end, last for {key}"


def read_folder(folder: Path) -> Files:
    """A store on disk as files."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_folder(files: Files, folder: Path) -> Path:
    """Files as a store on disk."""
    for key, data in files.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def content_of(data: bytes) -> Document:
    """What a sealed document or group says, without its digest."""
    document = json.loads(data)
    ours = document["attributes"]["embedkd"] if "attributes" in document else document
    assert isinstance(ours, dict)
    return {name: value for name, value in ours.items() if name != "digest"}


def sealed_keys(files: Files) -> list[str]:
    """Keys of all sealed documents and groups."""
    return [key for key, data in files.items() if key.endswith(".json") and b'"digest":"' in data]


def forge(files: Files, key: str, change: Callable[[Document], object]) -> Files:
    """A store in which one document was changed in place, with all digests that depend on it made new."""
    content = content_of(files[key])
    change(content)
    return resealed(files, {key: content})


def resealed(files: Files, contents: dict[str, Document]) -> Files:
    """A store with other contents of some documents, valid as far as digests and names can make it so."""
    forged = dict(files)
    for key, content in contents.items():
        forged[key] = _closed(key, content, _own_digest(files[key]))
    if ROOT in contents:
        forged = _renamed(forged, _digest(content_of(files[ROOT]).get("decode")), _digest(contents[ROOT].get("decode")))
    for _ in range(_ROUNDS):
        stale = next(_stale(forged), None)
        if stale is None:
            break
        forged = _replaced(forged, *stale)
    return forged


def with_object(files: Files, key: str, body: bytes, *, trailed: bool = False) -> Files:
    """A store in which one chunk has another body and everything that vouches for it does so again.

    It is not sealed any more: a stranger need not give a seal, and what a commit says is then all there is.
    """
    files = {name: data for name, data in files.items() if "sealed/" not in name}
    data = body if trailed else body + int(google_crc32c.value(body)).to_bytes(4, "little")
    before = blake2b_hex(files[key])
    forged = {**files, key: data}
    facts: Document = {"blake2b": blake2b_hex(data), "bytes": len(data), "crc32c": int.from_bytes(data[-4:], "little")}
    contents = {
        name: _vouching(content_of(forged[name]), before, facts)
        for name in sealed_keys(forged)
        if before.encode() in forged[name]
    }
    return resealed(_renamed(forged, before, facts["blake2b"]), contents)


def _vouching(value: Any, before: str, facts: Document) -> Any:
    if isinstance(value, dict):
        inner = {name: _vouching(entry, before, facts) for name, entry in value.items()}
        return {**inner, **facts} if value.get("blake2b") == before else inner
    return [_vouching(entry, before, facts) for entry in value] if isinstance(value, list) else value


def _stale(files: Files) -> Iterator[tuple[str, Document]]:
    """Documents whose digest is not that of their content."""
    for key in sealed_keys(files):
        content = content_of(files[key])
        if files[key] != _sealed(key, content):
            yield key, content


def _sealed(key: str, content: Document) -> bytes:
    return _closed(key, content, _digest(content))


def _closed(key: str, content: Document, digest: str) -> bytes:
    closed = {**content, "digest": digest}
    if not key.endswith(ROOT):
        return canonical_json(closed)
    return canonical_json({"zarr_format": 3, "node_type": "group", "attributes": {"embedkd": closed}})


def _replaced(files: Files, key: str, content: Document) -> Files:
    """Seal a document, and write what follows from it wherever that is named."""
    names: list[tuple[str, str]] = []
    if isinstance(content.get("spec"), dict):
        names += _of_specification(key, content)
    if "batch_size" in content and isinstance(content.get("outputs"), list):
        names.append((key.split("/")[-2], "pass-" + _digest([content["outputs"], content.get("views")])[:8]))
    data = _sealed(key, content)
    names.append((_own_digest(files[key]), _own_digest(data)))
    forged = {**files, key: data}
    for old, new in names:
        forged = _renamed(forged, old, new)
    return forged


def _of_specification(key: str, content: Document) -> list[tuple[str, str]]:
    facts = {name: value for name, value in content["spec"].items() if name not in _DESCRIPTIONS}
    old, content["fingerprint"] = content.get("fingerprint"), _digest(facts)
    name, folder = content["spec"].get("name"), key.split("/")[1]
    bare = name.split("@", 1)[0] if isinstance(name, str) else "x"
    safe = "".join(c if (c.isascii() and c.isalnum()) or c in "-." else "-" for c in bare).strip("-.").lower()
    made = f"{safe[-80:].lstrip('-.') or 'teacher'}-{content['fingerprint'][:8]}"
    return [(folder, made), *([(old, content["fingerprint"])] if isinstance(old, str) else [])]


def _digest(value: Any) -> str:
    return blake2b_hex(canonical_json(value))


def _own_digest(data: bytes) -> str:
    document = json.loads(data)
    found = (document["attributes"]["embedkd"] if "attributes" in document else document).get("digest")
    return found if isinstance(found, str) and _DIGEST.fullmatch(found) else ""


def _renamed(files: Files, old: str, new: str) -> Files:
    """Replace a digest or a folder's name everywhere: in keys, in documents, and in columns of packed digests."""
    if not old or old == new:
        return files
    packed = bytes.fromhex(old) if _DIGEST.fullmatch(old) and _DIGEST.fullmatch(new) else None
    forged: Files = {}
    for key, data in files.items():
        if key.endswith(".json"):
            data = data.replace(old.encode(), new.encode())
            if packed is not None and "/sealed/" in key:
                data = _repacked(data, packed, bytes.fromhex(new))
        forged["/".join(new if part == old else part for part in key.split("/"))] = data
    return forged


def _repacked(data: bytes, old: bytes, new: bytes) -> bytes:
    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: walk(entry) for name, entry in value.items()}
        if isinstance(value, list):
            return [walk(entry) for entry in value]
        if isinstance(value, str) and len(value) > 40:
            try:
                column = base64.b64decode(value, validate=True)
            except ValueError:
                return value
            return base64.b64encode(column.replace(old, new)).decode() if old in column else value
        return value

    return canonical_json(walk(json.loads(data)))


def under(files: Files, pattern: str) -> str:
    """The one key, or the first, that matches a pattern."""
    return next(iter(all_under(files, pattern)))


def all_under(files: Files, pattern: str) -> Iterable[str]:
    """All keys that match a pattern, sorted."""
    return sorted(key for key in files if re.fullmatch(pattern, key))
