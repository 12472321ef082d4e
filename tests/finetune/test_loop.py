"""Which epoch is better."""

import pytest

from embedkd.finetune.loop import is_better
from embedkd.finetune.tuner import Found


@pytest.mark.parametrize(
    ("hits", "loss", "better"), [(6, 9.0, True), (5, 0.9, True), (5, 1.0, False), (5, 1.1, False), (4, 0.1, False)]
)
def test_more_right_answers_or_as_many_at_a_lower_loss(hits: int, loss: float, better: bool) -> None:
    assert is_better(Found(hits, 10, loss), 0.5, 1.0) == better


def test_the_first_is_always_better() -> None:
    assert is_better(Found(0, 10, 99.0), None, None)
