"""A small cache of what is dear to open."""

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The few most recently used values, made on demand.

    Args:
        make: From a key to its value.
        size: How many are kept.
    """

    def __init__(self, make: "Callable[[K], V]", size: int) -> None:
        self._make = make
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V:
        """The value of a key."""
        if key not in self._values:
            if len(self._values) >= self._size:
                self._values.popitem(last=False)
            self._values[key] = self._make(key)
        self._values.move_to_end(key)
        return self._values[key]
