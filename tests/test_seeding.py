"""Seeds of named streams: one function of what they are for, and no two alike."""

import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkd.seeding import generator, stream_seed

parts = st.lists(st.integers(-(2**70), 2**70) | st.text(), max_size=4)


@settings(deadline=None)
@given(st.integers(), parts)
def test_a_seed_is_a_63_bit_function_of_its_parts(seed: int, stream: list[int | str]) -> None:
    first = stream_seed(seed, *stream)
    assert first == stream_seed(seed, *stream)
    assert 0 <= first < 1 << 63


@settings(deadline=None)
@given(st.integers(), parts, st.integers(), parts)
def test_streams_that_differ_have_other_seeds(
    seed: int, stream: list[int | str], other: int, others: list[int | str]
) -> None:
    if (seed, *stream) != (other, *others):
        assert stream_seed(seed, *stream) != stream_seed(other, *others)


def test_parts_do_not_run_together() -> None:
    streams: list[tuple[int | str, ...]] = [
        (1, 23),
        (12, 3),
        (123,),
        ("1", 23),
        (1, "23"),
        ("1", "23"),
        ("123",),
        ("12", "3"),
        (),
    ]
    assert len({stream_seed(0, *stream) for stream in streams}) == len(streams)
    assert stream_seed(1, 2) != stream_seed(2, 1)


def test_another_process_gets_the_same() -> None:
    """Neither hash randomisation nor a version of numpy has a part in it: stores and runs keep these numbers."""
    code = "from embedkd.seeding import stream_seed; print(stream_seed(0, 'augment', 3, 'a/é'))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == stream_seed(0, "augment", 3, "a/é") == 7032855297249511552


def test_generators_start_at_their_stream() -> None:
    first, again, other = (generator(0, "order", epoch).random(8) for epoch in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert abs(generator(5, "x").random(20_000).mean() - 0.5) < 0.01
