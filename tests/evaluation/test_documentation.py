"""docs/evaluation.md names every metric there is, and its examples run."""

import doctest
import re
from pathlib import Path

from embedkd.evaluation import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_every_metric_is_defined() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", PAGE.read_text(), flags=re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(METRICS)


def test_its_examples_run() -> None:
    assert doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS).failed == 0
