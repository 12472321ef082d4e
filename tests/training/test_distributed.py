from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedkd.config import Config
from embedkd.errors import TrainingError
from embedkd.join.order import batch_positions
from embedkd.training.distributed import ALONE, Ranks, joined
from embedkd.training.division import Division, Share
from embedkd.training.plan import Plan

TOLD = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def test_ranks_are_what_torchrun_tells() -> None:
    assert Ranks.from_environment({}) == ALONE == Ranks(0, 1, 0, 1)
    ranks = Ranks.from_environment(TOLD)
    assert ranks == Ranks(3, 8, 1, 2)
    assert (ranks.first, ranks.several, ALONE.first, ALONE.several) == (False, True, True, False)


@pytest.mark.parametrize(
    "wrong", [{"RANK": "8"}, {"RANK": "-1"}, {"LOCAL_RANK": "2"}, {"LOCAL_WORLD_SIZE": "9"}, {"RANK": "one"}]
)
def test_ranks_that_cannot_be_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(TrainingError, match=r"(start with torchrun)"):
        Ranks.from_environment(TOLD | wrong)
    with pytest.raises(TrainingError, match="'LOCAL_RANK' is not"):
        Ranks.from_environment({name: value for name, value in TOLD.items() if name != "LOCAL_RANK"})


def test_one_process_talks_to_nobody() -> None:
    with joined(ALONE):
        values, module = torch.ones(2), torch.nn.Linear(1, 1)
        assert ALONE.total(values) is values
        assert ALONE.parallel(module) is module
        assert ALONE.listed("said") == ["said"]
        ALONE.mean_([values])
        assert values.tolist() == [1, 1]
        assert Share((2,)).gather(values) is values
        assert not torch.distributed.is_initialized()


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.integers(0, 30))
def test_a_step_is_divided_as_the_join_deals_out_batches(
    rows: int, part_rows: int, accumulate: int, size: int, step: int
) -> None:
    made = Division(rows, part_rows * accumulate, accumulate, Ranks(0, size))
    parts = made.parts(step)
    first = step % made.steps * accumulate
    for number, share in enumerate(parts):
        dealt = [batch_positions(rows, first + number, part_rows, rank, size)[1] for rank in range(size)]
        assert share.counts == tuple(int(valid.sum()) for valid in dealt)
    whole = rows - (made.steps - 1) * part_rows * accumulate if (step + 1) % made.steps == 0 else part_rows * accumulate
    assert sum(sum(share.counts) for share in parts) == whole


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4))
def test_an_epoch_is_divided_into_steps_without_rest(rows: int, part_rows: int, accumulate: int) -> None:
    made = Division(rows, part_rows * accumulate, accumulate)
    batches = list(range(-(-rows // part_rows)))
    steps = list(islice(made.by_step(batches * 2, 0), 2 * made.steps))
    assert [batch for step in steps[: made.steps] for batch in step] == batches
    assert steps[made.steps :] == steps[: made.steps]
    assert list(made.by_step(batches[accumulate:], 1)) == steps[1 : made.steps]


def test_own_samples_lie_where_ranks_put_them() -> None:
    assert [Share((3, 3, 1), rank).own.tolist() for rank in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert Share((1, 0), 1).own.tolist() == [0], "a rank without samples points at another's"


def test_batches_of_several_ranks_are_those_of_one(config_of: Callable[..., Config]) -> None:
    config = config_of("train.global_batch_size=7")
    _, card = Plan.of(config).build()

    def keys(ranks: Ranks, begin: int) -> list[list[str]]:
        batches = Plan.of(config, ranks).training_batches(card, begin)
        return [[key for key, ok in zip(b.keys, b.valid.tolist(), strict=True) if ok] for b in batches]

    alone = keys(ALONE, 0)
    for size, begin in ((2, 0), (3, 5)):
        together = [keys(Ranks(rank, size), begin) for rank in range(size)]
        assert [[key for part in step for key in part] for step in zip(*together, strict=True)] == alone[begin:]
    assert np.unique([key for step in alone[:4] for key in step]).size == 22
