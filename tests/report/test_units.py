import pytest

from embedkd.report import units


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("form", [units.percent, units.count, units.magnitude, units.size, units.duration, units.rate])
def test_what_is_missing_is_a_dash_and_zero_is_zero(form: object) -> None:
    assert callable(form)
    assert form(None) == units.MISSING
    assert form(0).startswith("0")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (units.percent(1.0), "100.0 %"),
        (units.interval(None, 0.5), ""),
        (units.interval(0.0, 1.0), "[0.0, 100.0]"),
        (units.count(9999), "9999"),
        (units.count(1_281_167), "1 281 167"),
        (units.magnitude(999), "999"),
        (units.magnitude(306_500_000), "306 M"),
        (units.size(1023), "1023 B"),
        (units.size(-(3 << 20)), "-3.00 MiB"),
        (units.size(5 << 30), "5.00 GiB"),
        (units.duration(59.4), "59.4 s"),
        (units.duration(59.7), "1 min 00 s"),
        (units.duration(3599.7), "1 h 00 min"),
        (units.rate(1234.5), "1234"),
        (units.rate(0.00123), "0.00123"),
    ],
)
def test_edges(text: str, shown: str) -> None:
    assert plain(text) == shown
