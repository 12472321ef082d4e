"""The order of an epoch: every sample once, whoever asks for whichever part."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from embedkd.join.order import BLOCK_ROWS, MAX_LANES, EpochOrder, batch_positions

counts_of_slots = st.lists(st.integers(1, 60), min_size=1, max_size=12).map(tuple)
seeds = st.integers(0, 2**40)
orders = st.builds(
    EpochOrder,
    counts=counts_of_slots,
    seed=seeds,
    epoch=st.integers(0, 1000),
    shuffle=st.booleans(),
    block_rows=st.integers(1, 70),
)


def whole(order: EpochOrder) -> list[tuple[int, int]]:
    """The epoch as (slot, number) in order."""
    slots, numbers = order.at(np.arange(order.rows))
    return list(zip(slots.tolist(), numbers.tolist(), strict=True))


@given(order=orders)
def test_an_epoch_visits_every_sample_once(order: EpochOrder) -> None:
    assert sorted(whole(order)) == [(slot, number) for slot, rows in enumerate(order.counts) for number in range(rows)]


@given(order=orders, data=st.data())
def test_any_part_of_an_epoch_can_be_asked_for_alone(order: EpochOrder, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, order.rows - 1), max_size=20))
    epoch = whole(order)
    slots, numbers = order.at(np.array(positions, np.int64))
    assert list(zip(slots.tolist(), numbers.tolist(), strict=True)) == [epoch[position] for position in positions]


@given(order=orders)
def test_the_same_facts_give_the_same_order(order: EpochOrder) -> None:
    again = EpochOrder(order.counts, order.seed, order.epoch, order.shuffle, order.block_rows)
    assert whole(again) == whole(order)


@given(order=orders)
def test_lanes_are_equally_long_and_take_turns(order: EpochOrder) -> None:
    """A lane is a stretch of the line of slots, wherever in a slot it ends; each position takes the next lane."""
    assume(order.shuffle)
    line = {place: i for i, place in enumerate(_line(order))}
    stretches = [[line[place] for place in whole(order)[lane :: order.lanes]] for lane in range(order.lanes)]
    assert max(map(len, stretches)) - min(map(len, stretches)) <= 1
    for stretch in stretches:
        assert max(stretch) - min(stretch) + 1 == len(stretch)
    assert [min(a) < min(b) for a, b in pairwise(stretches)] == [True] * (order.lanes - 1)
    assert order.lanes <= MAX_LANES


def _line(order: EpochOrder) -> list[tuple[int, int]]:
    """All slots end to end, in the epoch's order of slots: what an order with blocks of one row and one lane visits."""
    return [(slot, number) for slot in order._slots.tolist() for number in range(order.counts[slot])]


@given(order=orders)
def test_blocks_bound_how_far_a_sample_moves(order: EpochOrder) -> None:
    """So a reader has one or two slots a lane open, however long the epoch is."""
    assume(order.shuffle)
    line = {place: i for i, place in enumerate(_line(order))}
    for lane in range(order.lanes):
        places = [line[place] for place in whole(order)[lane :: order.lanes]]
        for begin in range(0, len(places), order.block_rows):
            block = places[begin : begin + order.block_rows]
            assert sorted(block) == list(range(min(block), min(block) + len(block)))


def test_without_shuffling_samples_come_as_they_lie() -> None:
    order = EpochOrder((2, 3), seed=0, epoch=5, shuffle=False)
    assert whole(order) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def test_a_small_set_is_shuffled_as_a_whole() -> None:
    """Over 2,000 seeds each of 4 samples stands equally often at each of 4 places (chi-square, 9 degrees)."""
    table = np.zeros((4, 4), np.int64)
    for seed in range(2000):
        for position, (slot, number) in enumerate(whole(EpochOrder((1, 2, 1), seed, 0))):
            table[position, (0, 1, 3)[slot] + number] += 1
    assert ((table - 500) ** 2 / 500).sum() < 27.9
    assert EpochOrder((BLOCK_ROWS // 2, BLOCK_ROWS // 2), 0, 0).lanes == 1


def test_a_large_set_has_all_lanes_and_mixes_distant_slots() -> None:
    order = EpochOrder((BLOCK_ROWS,) * 32, seed=1, epoch=0)
    assert order.lanes == MAX_LANES
    slots, numbers = order.at(np.arange(256))
    assert len(set(slots.tolist())) == MAX_LANES
    assert np.ptp(numbers) > BLOCK_ROWS // 2


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0)])
def test_epochs_and_seeds_differ(seed: int, epoch: int) -> None:
    first, other = whole(EpochOrder((50, 50), 0, 0)), whole(EpochOrder((50, 50), seed, epoch))
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 10


def test_seed_and_epoch_are_not_added() -> None:
    assert whole(EpochOrder((100,), seed=1, epoch=0)) != whole(EpochOrder((100,), seed=0, epoch=1))


@given(rows=st.integers(1, 200), size=st.integers(1, 70), world=st.integers(1, 9))
def test_ranks_share_each_sample_once(rows: int, size: int, world: int) -> None:
    """Over an epoch the valid positions of all ranks are every position once, in equal shares a step."""
    for step in range(-(-rows // size)):
        shares = [batch_positions(rows, step, size, rank, world) for rank in range(world)]
        assert len({len(positions) for positions, _ in shares}) == 1
        counted = [int(p) for positions, valid in shares for p in positions[valid]]
        assert counted == list(range(step * size, min((step + 1) * size, rows)))
        for positions, valid in shares:
            assert positions.dtype == np.int64
            assert ((step * size <= positions) & (positions < rows)).all()
            assert positions.shape == valid.shape


@given(rows=st.integers(1, 200), size=st.integers(1, 70), worlds=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_the_global_batch_does_not_depend_on_the_number_of_ranks(rows: int, size: int, worlds: tuple[int, int]) -> None:
    def batch(world: int) -> Counter[int]:
        shares = [batch_positions(rows, 0, size, rank, world) for rank in range(world)]
        return Counter(int(p) for positions, valid in shares for p in positions[valid])

    assert batch(worlds[0]) == batch(worlds[1])


def test_the_tail_is_padded_with_samples_that_do_not_count() -> None:
    shares = [batch_positions(10, 1, 8, rank, 4) for rank in range(4)]
    assert [positions.tolist() for positions, _ in shares] == [[8], [9], [8], [8]]
    assert [valid.tolist() for _, valid in shares] == [[True], [True], [False], [False]]
