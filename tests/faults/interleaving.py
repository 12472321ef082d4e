"""Storages that let something else happen in the middle of what is done with them, exactly where it is wanted."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator

from embedkd.storage import Storage

Hook = Callable[[str, str], None]


class Hooked:
    """Calls a hook with the verb and the key before each operation, and then does it.

    Args:
        inner: The storage.
        hook: What happens in between.
    """

    def __init__(self, inner: Storage, hook: Hook) -> None:
        self.inner = inner
        self._hook = hook

    @property
    def url(self) -> str:
        return self.inner.url

    def get(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        self._hook("get", key)
        return self.inner.get(key, limit_bytes=limit_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._hook("get", key)
        return self.inner.get_range(key, start, length)

    def stream(self, key: str, start: int = 0) -> Iterator[bytes]:
        self._hook("get", key)
        yield from self.inner.stream(key, start)

    def size(self, key: str) -> int:
        self._hook("look", key)
        return self.inner.size(key)

    def exists(self, key: str) -> bool:
        self._hook("look", key)
        return self.inner.exists(key)

    def list_names(self, prefix: str) -> list[str]:
        self._hook("list", prefix)
        return self.inner.list_names(prefix)

    def put_new(self, key: str, data: bytes) -> None:
        self._hook("put", key)
        self.inner.put_new(key, data)

    def replace(self, key: str, data: bytes) -> None:
        self._hook("replace", key)
        self.inner.replace(key, data)

    def remove(self, key: str) -> None:
        self._hook("remove", key)
        self.inner.remove(key)


WRITES = frozenset({"put", "replace", "remove"})


def before_write(number: int, then: Callable[[], object]) -> Hook:
    """Lets something happen before the so-manieth write, from 0, as if this writer had stalled there."""
    left = [number]

    def hook(verb: str, _key: str) -> None:
        if verb in WRITES:
            left[0] -= 1
            if left[0] == -1:
                then()

    return hook


class Counting(Hooked):
    """Counts the puts of each key that created an object; safe for threads.

    Args:
        inner: The storage.
        created: How often, by key.
    """

    def __init__(self, inner: Storage, created: Counter[str]) -> None:
        super().__init__(inner, lambda _verb, _key: None)
        self._created = created
        self._lock = threading.Lock()

    def put_new(self, key: str, data: bytes) -> None:
        super().put_new(key, data)
        with self._lock:
            self._created[key] += 1
