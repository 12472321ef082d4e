import doctest
import re
from pathlib import Path

from embedkd.losses import LOSSES

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"


def test_the_examples_of_the_page_run() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")

    assert result.attempted > 10
    assert result.failed == 0


def test_every_loss_is_in_an_example() -> None:
    code = " ".join(re.findall(r"^(?:>>>|\.\.\.) (.*)$", PAGE.read_text(), re.MULTILINE))

    assert not [name for name in LOSSES if f"losses.{name}" not in code]
