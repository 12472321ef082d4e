"""The batch that fits: found before a pass is created, and kept by it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from embedkd.errors import TeacherError
from embedkd.precompute import precompute
from embedkd.precompute.batch_size import find_batch_size, is_out_of_memory
from embedkd.store import open_store
from tests.precompute.zoo import ONE, Watch, changed
from tests.tiny import OUTPUTS, TextTeacher, TinyTeacher

if TYPE_CHECKING:
    from embedkd.config import Config
    from tests.precompute.zoo import Zoo

REFUSALS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried"),
]


class Small(TinyTeacher):
    """Has memory for so many images."""

    def __init__(self, room: int, error: BaseException = REFUSALS[0]) -> None:
        super().__init__()
        self.room = room
        self._error = error

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        said = super().embed(pixels, outputs)
        if len(pixels) > self.room:
            raise self._error
        return said


@pytest.mark.parametrize("error", REFUSALS)
@pytest.mark.parametrize(("room", "found"), [(64, 64), (63, 32), (5, 4), (1, 1)])
def test_the_batch_is_halved_until_it_fits(error: BaseException, room: int, found: int) -> None:
    watch = Watch()
    teacher = Small(room, error)
    assert find_batch_size(teacher, OUTPUTS, 64, watch) == found
    assert teacher.batches[0] == 64
    assert teacher.batches[-1] == found
    assert len(watch.lines) == (found != 64)


def test_nothing_fits() -> None:
    with pytest.raises(TeacherError, match="no memory for a single image"):
        find_batch_size(Small(0), OUTPUTS, 4, Watch())


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        find_batch_size(Small(1, RuntimeError("shapes do not fit")), OUTPUTS, 4, Watch())
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_texts_are_tried_too() -> None:
    class Short(TextTeacher):
        def embed_text(self, tokens: torch.Tensor) -> torch.Tensor:
            if len(tokens) > 10:
                raise MemoryError
            return super().embed_text(tokens)

    assert find_batch_size(Short(), ("text",), 64, Watch()) == 8


def test_what_was_found_is_recorded_and_kept(config: "Config", zoo: "Zoo") -> None:
    zoo.teachers[ONE] = small = Small(2)
    one = changed(config, teachers=(ONE,), outputs=("cls",), batch_size=8)
    store = Path(precompute(one).store)
    (plan,) = open_store(str(store)).teacher().passes.values()
    assert plan.batch_size == 2
    assert set(small.batches[3:]) == {1, 2}
    for commit in store.glob("teachers/*/*/commits/*.json"):
        commit.unlink()
    watch = Watch()
    zoo.teachers[ONE] = again = TinyTeacher()
    precompute(one, watch)
    assert max(again.batches) == 2
    assert any("was begun with batches of 2, not compiled, and goes on so" in line for line in watch.lines)
    for commit in store.glob("teachers/*/*/commits/*.json"):
        commit.unlink()
    zoo.teachers[ONE] = Small(1)
    with pytest.raises(
        TeacherError, match=r"no memory for a batch of 2, which its pass records\n.*smaller --batch-size"
    ):
        precompute(one)
