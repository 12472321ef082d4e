"""A small cache."""

from embedkd.join.recent import Recent


def test_values_are_made_once_and_the_least_recently_used_goes_first() -> None:
    made: list[int] = []

    def make(key: int) -> str:
        made.append(key)
        return str(key)

    recent = Recent(make, 2)
    assert [recent.get(key) for key in (1, 2, 1, 3, 1, 2)] == ["1", "2", "1", "3", "1", "2"]
    assert made == [1, 2, 3, 2]
