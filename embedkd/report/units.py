"""Numbers as people read them. A missing one is a dash, never a zero."""

MISSING = "\N{EN DASH}"
_GAP = "\N{NO-BREAK SPACE}"
_THIN = "\N{NARROW NO-BREAK SPACE}"
_MINUTE_S = 60
_HOUR_S = 3600
_FULL_DIGITS = 10_000


def percent(share: float | None) -> str:
    r"""A share with one decimal.

    >>> percent(0.4537)
    '45.4\xa0%'
    """
    return MISSING if share is None else f"{100 * share:.1f}{_GAP}%"


def interval(low: float | None, high: float | None) -> str:
    r"""The ends of an interval of shares; nothing where it has none.

    >>> interval(0.4012, 0.5149)
    '[40.1,\xa051.5]'
    """
    return "" if low is None or high is None else f"[{100 * low:.1f},{_GAP}{100 * high:.1f}]"


def count(number: int | None) -> str:
    r"""A number of things, in groups of three digits from 10,000 on.

    >>> count(1580), count(123456).replace("\u202f", " ")
    ('1580', '123 456')
    """
    if number is None:
        return MISSING
    return str(number) if abs(number) < _FULL_DIGITS else f"{number:,}".replace(",", _THIN)


def magnitude(number: int | None) -> str:
    r"""A number of parameters, in thousands or millions.

    >>> magnitude(819_233), magnitude(5_060_000), magnitude(900)
    ('819\xa0k', '5.06\xa0M', '900')
    """
    if number is None:
        return MISSING
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if number >= size:
            return f"{_three_digits(number / size)}{_GAP}{unit}"
    return str(number)


def size(size_bytes: int | None) -> str:
    r"""A number of bytes, in binary units.

    >>> size(350_000_000), size(1536)
    ('334\xa0MiB', '1.50\xa0KiB')
    """
    if size_bytes is None:
        return MISSING
    for unit, one in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(size_bytes) >= one:
            return f"{_three_digits(size_bytes / one)}{_GAP}{unit}"
    return f"{size_bytes}{_GAP}B"


def duration(seconds: float | None) -> str:
    r"""A time, in the two units that matter.

    >>> duration(8.24), duration(95), duration(7260)
    ('8.2\xa0s', '1\xa0min\xa035\xa0s', '2\xa0h\xa001\xa0min')
    """
    if seconds is None:
        return MISSING
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{seconds:.1f}{_GAP}s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}{_GAP}min{_GAP}{whole % _MINUTE_S:02d}{_GAP}s"
    return f"{whole // _HOUR_S}{_GAP}h{_GAP}{whole % _HOUR_S // _MINUTE_S:02d}{_GAP}min"


def rate(number: float | None) -> str:
    """Something a second, with three digits.

    >>> rate(11.849), rate(0.0415)
    ('11.8', '0.0415')
    """
    return MISSING if number is None else _three_digits(number)


def _three_digits(number: float) -> str:
    rounded = f"{number:#.3g}"
    return rounded.rstrip(".") if "e" not in rounded else f"{number:.0f}"
