"""A storage that is a dict: states are taken and given back in microseconds, and every object is in sight."""

import json
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from embedkd.errors import ObjectExistsError, ObjectMissingError
from embedkd.records import canonical_json
from embedkd.storage.files import is_temporary
from embedkd.storage.keys import check_range, key_parts

State = dict[str, bytes]
_TELLS_RUNS_APART = ("attempt", "digest", "store_uuid", "created")


class HeldStorage:
    """Objects in a dict; safe for threads.

    Args:
        state: What it holds; it takes a copy.
        url: How messages name it.

    Attributes:
        state: Key to bytes, to be read and changed by tests.
    """

    def __init__(self, state: Mapping[str, bytes] | None = None, url: str = "held://store") -> None:
        self.state: State = dict(state or {})
        self.url = url
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"state": self.state, "url": self.url}

    def __setstate__(self, facts: dict[str, Any]) -> None:
        self.__init__(facts["state"], facts["url"])  # type: ignore[misc]

    def _key(self, key: str) -> str:
        return _checked(key)

    def get(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        data = self.state.get(self._key(key))
        if data is None:
            raise ObjectMissingError(f"{self.url} has no object {key}")
        return data if limit_bytes is None else data[: limit_bytes + 1]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        return self.get(key)[start : start + length]

    def stream(self, key: str, start: int = 0) -> Iterator[bytes]:
        yield self.get(key)[start:]

    def size(self, key: str) -> int:
        return len(self.get(key))

    def exists(self, key: str) -> bool:
        return self._key(key) in self.state

    def list_names(self, prefix: str) -> list[str]:
        folder = self._key(prefix) + "/" if prefix else ""
        with self._lock:
            below = [key.removeprefix(folder) for key in self.state if key.startswith(folder)]
        return sorted(name for name in {key.split("/", 1)[0] for key in below} if not is_temporary(name))

    def put_new(self, key: str, data: bytes) -> None:
        with self._lock:
            if self._key(key) in self.state:
                raise ObjectExistsError(f"{self.url}/{key} exists already")
            self.state[self._key(key)] = bytes(data)

    def replace(self, key: str, data: bytes) -> None:
        with self._lock:
            self.state[self._key(key)] = bytes(data)

    def remove(self, key: str) -> None:
        with self._lock:
            self.state.pop(self._key(key), None)


@lru_cache(1 << 14)
def _checked(key: str) -> str:
    """The key, if a store may have it; storms ask for few keys, each of them thousands of times."""
    return "/".join(key_parts(key, "held://store"))


def settled(state: Mapping[str, bytes]) -> dict[str, bytes]:
    """What must not depend on who wrote a store, when, and in how many attempts: chunks, metadata, documents."""
    return {key: _lasting(data) if key.endswith(".json") else data for key, data in state.items()}


@lru_cache(1 << 14)
def _lasting(data: bytes) -> bytes:
    try:
        document = json.loads(data)
    except ValueError:
        return data
    for holder in (document, document.get("attributes", {}).get("embedkd", {})):
        for name in _TELLS_RUNS_APART:
            holder.pop(name, None)
    return canonical_json(document)
