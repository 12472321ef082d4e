import doctest
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import invoke
from tests.export.conftest import make_run

PAGE = Path(__file__).parents[2] / "docs" / "students.md"
COMMANDS = re.findall(r"^    embedkd (students.*?)(?: {2,}#.*)?$", PAGE.read_text(), re.MULTILINE)


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)

    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")

    assert result.attempted > 15
    assert result.failed == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = invoke(capsys, tuple(shlex.split(command)))

    assert code == 0, err
    assert out


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 4
