"""What an evaluation keeps beside its numbers: bins of the confidence, and counts class by class.

It is read as a stranger's: every number is of its kind and within its bounds, or the file is none.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from embedkd.evaluation.calibration import Bin
from embedkd.evaluation.classes import MOST_CLASSES, MOST_PAIRS, ClassCounts, Confusions

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_BINS = 1000
_MOST_ROWS = 10**15


@dataclass(frozen=True)
class Details:
    """Tables of an evaluation; each is None where it was not asked for.

    Attributes:
        reliability: Bins of equal width of the confidence.
        scaled_reliability: Likewise after temperature scaling.
        classes: Counts of each class; None also where there are more than `MOST_CLASSES`.
        confusions: What was taken for what.
    """

    reliability: tuple[Bin, ...] | None = None
    scaled_reliability: tuple[Bin, ...] | None = None
    classes: ClassCounts | None = None
    confusions: Confusions | None = None

    def to_json(self) -> "dict[str, Any]":
        """As JSON values, tables by column; ``from_json`` gives equal details back."""
        document: dict[str, Any] = {
            name: None if bins is None else _columns(bins)
            for name, bins in (("reliability", self.reliability), ("scaled_reliability", self.scaled_reliability))
        }
        document["classes"] = None if self.classes is None else {k: list(v) for k, v in asdict(self.classes).items()}
        if self.confusions is not None:
            columns = list(zip(*self.confusions.pairs, strict=True)) or [(), (), ()]
            names = ("label", "answer", "rows")
            document["confusions"] = {name: list(column) for name, column in zip(names, columns, strict=True)}
            document["confusions"]["left_out"] = self.confusions.left_out
        return {name: value for name, value in document.items() if value is not None}

    @classmethod
    def from_json(cls, document: object) -> "Details":
        """The inverse of ``to_json``.

        Raises:
            TypeError: It is not what an evaluation writes.
        """
        if not isinstance(document, dict):
            raise TypeError("details that are no table")
        unknown = set(document) - {"reliability", "scaled_reliability", "classes", "confusions"}
        if unknown:
            raise TypeError(f"unknown details {', '.join(sorted(map(str, unknown)))}")
        classes = None if "classes" not in document else _read_classes(document["classes"])
        return cls(
            reliability=_read_bins(document, "reliability"),
            scaled_reliability=_read_bins(document, "scaled_reliability"),
            classes=classes,
            confusions=None if "confusions" not in document else _read_confusions(document["confusions"], classes),
        )


def _columns(bins: tuple[Bin, ...]) -> dict[str, list[Any]]:
    return {name: [getattr(one, name) for one in bins] for name in Bin.__dataclass_fields__}


def _read_bins(document: "Mapping[str, Any]", name: str) -> tuple[Bin, ...] | None:
    if name not in document:
        return None
    columns = _table(document[name], tuple(Bin.__dataclass_fields__), _MOST_BINS)
    bins = tuple(Bin(*values) for values in zip(*columns, strict=True))
    for one in bins:
        counts, shares = _are_counts([one.rows, one.hits]), _are_shares([one.low, one.high, one.confidence])
        if not (counts and shares and 0 < one.rows >= one.hits):
            raise TypeError(f"a bin of {name} that no evaluation writes")
    return bins


def _read_classes(document: object) -> ClassCounts:
    columns = _table(document, tuple(ClassCounts.__dataclass_fields__), MOST_CLASSES)
    if not all(map(_are_counts, columns)):
        raise TypeError("classes with something else than counts")
    counts = ClassCounts(*map(tuple, columns))
    if any(hits > min(rows, answers) for rows, hits, answers in zip(*columns, strict=True)):
        raise TypeError("classes with more hits than samples or answers")
    return counts


def _read_confusions(document: object, classes: ClassCounts | None) -> Confusions:
    names = ("label", "answer", "rows")
    if not isinstance(document, dict) or classes is None:
        raise TypeError("confusions without classes")
    columns = _table({name: document.get(name) for name in names}, names, MOST_PAIRS)
    left_out = document.get("left_out", -1)
    if not all(map(_are_counts, [*columns, [left_out]])) or set(document) != {*names, "left_out"}:
        raise TypeError("confusions with something else than counts")
    known = len(classes.rows)
    if any(number >= known for number in (*columns[0], *columns[1])):
        raise TypeError(f"confusions of other classes than {known}")
    return Confusions(tuple((a, b, c) for a, b, c in zip(*columns, strict=True)), left_out)


def _table(document: object, names: tuple[str, ...], most: int) -> list[list[Any]]:
    """Columns of equal length, in the order of their names."""
    if not isinstance(document, dict) or set(document) != set(names):
        raise TypeError(f"expected a table of {', '.join(names)}")
    columns = [document[name] for name in names]
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
        raise TypeError(f"expected columns of one length of {', '.join(names)}")
    if len(columns[0]) > most:
        raise TypeError(f"expected at most {most} rows of {', '.join(names)}, got {len(columns[0])}")
    return columns


def _are_counts(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value <= _MOST_ROWS for value in values)


def _are_shares(values: list[Any]) -> bool:
    return all(type(value) in {int, float} and 0 <= value <= 1 for value in values)
