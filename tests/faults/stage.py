"""Scenes on a stage: played without a fault once, and then with faults, watched for anything that is wrong."""

from collections.abc import Mapping

from embedkd.errors import EmbedKDError
from tests.faults.held import HeldStorage, State, settled
from tests.faults.scenes import Scene, check_message
from tests.storage.faulty import Fault, FaultyStorage


def hold(before: Mapping[str, State]) -> dict[str, HeldStorage]:
    return {name: HeldStorage(state, f"held://{name}") for name, state in before.items()}


def faulty(storages: Mapping[str, HeldStorage], faults: Mapping[int, Fault]) -> dict[str, FaultyStorage]:
    first = FaultyStorage(next(iter(storages.values())), faults)
    return {name: FaultyStorage(storage, along=first) for name, storage in storages.items()}


def states(storages: Mapping[str, HeldStorage]) -> dict[str, dict[str, bytes]]:
    return {name: settled(storage.state) for name, storage in storages.items()}


class Stage:
    """A scene that was played once without a fault.

    Attributes:
        before: Storage by name to what it holds when the scene begins.
        operations: What the scene does, in order.
    """

    def __init__(self, scene: Scene) -> None:
        self.before = scene.before()
        self._act = scene.act
        storages = hold(self.before)
        counted = faulty(storages, {})
        self._said = scene.act(counted)
        self._began, self._ends = states(hold(self.before)), states(storages)
        self._mended = [self._began]
        self.operations = next(iter(counted.values())).operations

    def play(self, storages: Mapping[str, HeldStorage], faults: Mapping[int, Fault]) -> bool:
        """Whether the scene came to its end; nothing may be wrong either way."""
        try:
            said = self._act(faulty(storages, faults))
        except EmbedKDError as error:
            check_message(error)
            self._check_nothing_wrong(storages)
            return False
        assert said == self._said
        assert states(storages) == self._ends
        return True

    def mend(self, storages: Mapping[str, HeldStorage]) -> bool:
        """Whether the scene comes to its end now, or did so from the same state before."""
        found = states(storages)
        if found not in self._mended:
            if not self.play(storages, {}):
                return False
            self._mended.append(found)
        return True

    def _check_nothing_wrong(self, storages: Mapping[str, HeldStorage]) -> None:
        """Every object is as before or as it shall be, and none is gone that shall stay."""
        for name, found in states(storages).items():
            began, ends = self._began[name], self._ends[name]
            assert not [key for key, data in found.items() if data not in {began.get(key), ends.get(key)}]
            assert began.keys() & ends.keys() <= found.keys()
