"""Each storage operation of everything that is ever done to a store fails once, in every way.

Whatever that leaves, nothing in it is wrong, the error is one line of ours, and the same command ends where an
undisturbed one does.
"""

import pytest

from tests.faults.scenes import SCENES, Scene
from tests.faults.stage import Stage, hold
from tests.storage.faulty import Fault, seeded

READS = {"read", "look at", "list"}
# To a caller these are one: an error, and nothing was done. They take turns, unless there is time for all.
ALIKE = (Fault.BEFORE, Fault.TIMEOUT, Fault.UNAVAILABLE)


def faults_of(verb: str, turn: int, *, thorough: bool) -> tuple[Fault, ...]:
    """The kinds of fault that an operation can meet: all, or those that differ in what they leave."""
    if thorough:
        return tuple(Fault)
    plain = ALIKE[turn % len(ALIKE)]
    if verb == "read":
        return (Fault.PARTIAL, plain) if turn % 3 == 0 else (Fault.PARTIAL,)
    return (plain,) if verb in READS else (plain, Fault.AFTER)


@pytest.fixture(scope="module", params=SCENES, ids=str)
def stage(request: pytest.FixtureRequest) -> Stage:
    scene: Scene = request.param
    return Stage(scene)


def test_whichever_operation_fails_the_same_command_goes_on(stage: Stage, thorough: bool) -> None:
    assert len(stage.operations) > 8
    for number, (verb, key) in enumerate(stage.operations):
        for fault in faults_of(verb, number, thorough=thorough):
            storages = hold(stage.before)
            ended = stage.play(storages, {number: fault})
            assert ended or stage.mend(storages), f"{fault.name} in operation {number}, {verb} {key}"


def test_however_many_operations_fail_the_same_command_goes_on(stage: Stage, thorough: bool, storm_seed: int) -> None:
    for turn in range(40 if thorough else 3):
        storages = hold(stage.before)
        for run in range(1000):
            faults = seeded(1000 * (1000 * storm_seed + turn) + run, len(stage.operations), 1 / (4 + 4 * run))
            if stage.play(storages, faults):
                break
        else:
            pytest.fail(f"seed {storm_seed}, turn {turn}: it never comes to its end")


def test_the_scenes_read_write_list_and_remove() -> None:
    """No fault of the list is left out because nothing does what it is a fault of."""
    assert {verb for scene in SCENES for verb, _ in Stage(scene).operations} == {*READS, "write", "remove"}
