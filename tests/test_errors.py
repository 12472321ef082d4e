import pickle

from embedkd.errors import UnknownNameError


def test_a_name_that_is_near_to_none_lists_all_of_a_short_table() -> None:
    assert str(UnknownNameError("loss", "zzz", ["b", "a"])) == "unknown loss 'zzz'; known: a, b"
    assert str(UnknownNameError("loss", "zzz", [])) == "unknown loss 'zzz'; known: none"


def test_a_long_table_is_not_poured_out() -> None:
    error = UnknownNameError("loss", "zzz", [f"name{number:03d}" for number in range(1000)])
    assert str(error).endswith("name029 and 970 more")
    assert len(error.valid) == 1000


def test_an_unknown_name_crosses_processes() -> None:
    error = UnknownNameError("loss", "mee", ["mse"])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.valid) == ("unknown loss 'mee'; did you mean mse?", ("mse",))
