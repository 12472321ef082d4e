"""Deaths at every write of an operation, one after the other."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from embedkd.storage import LocalStorage


class Death(BaseException):
    """Nothing that runs may catch it."""


class Mortal(LocalStorage):
    """A storage whose process dies at its n-th write, before anything is written.

    Args:
        root: The folder.
        dies_at: n, from 1; writes of all mortals of one list are counted together.
    """

    def __init__(self, root: Path, dies_at: list[int]) -> None:
        super().__init__(root)
        self._left = dies_at

    def write(self) -> None:
        self._left[0] -= 1
        if not self._left[0]:
            raise Death

    def put_new(self, key: str, data: bytes) -> None:
        self.write()
        super().put_new(key, data)

    def replace(self, key: str, data: bytes) -> None:
        self.write()
        super().replace(key, data)

    def remove(self, key: str) -> None:
        self.write()
        super().remove(key)


def disturbed(sound: Path, folder: Path, operation: Callable[[Any], object]) -> Iterator[Path]:
    """Copies of a store in which an operation died at its first, second, ... write, until it does not die."""
    for death in itertools.count(1):
        copy = folder / f"death-{death}.zarr"
        shutil.copytree(sound, copy)
        try:
            operation(Mortal(copy, [death]))
        except Death:
            yield copy
        else:
            return
