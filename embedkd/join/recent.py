"""A small cache of what is dear to open."""

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
        return self.get_all([key], map)[key]

    def get_all(self, keys: "Iterable[K]", each: "Callable[[Callable[[K], V], list[K]], Iterable[V]]") -> dict[K, V]:
        """The values of several keys.

        Args:
            keys: The keys.
            each: ``map``, or what makes several missing values at once.
        """
        wanted = dict.fromkeys(keys)
        missing = [key for key in wanted if key not in self._values]
        made = dict(zip(missing, each(self._make, missing), strict=True))
        found = {key: made[key] if key in made else self._values[key] for key in wanted}
        for key, value in found.items():
            self._values[key] = value
            self._values.move_to_end(key)
        while len(self._values) > self._size:
            self._values.popitem(last=False)
        return found
