"""The examples of docs/training.md and the commands of docs/losses.md run, each section in a folder of its own.

The folder holds ``shards/`` (22 training, 9 validation and 9 test images of three classes) and ``store.zarr``, the rows
of packaged:efficientnet-lite0 on them. Whatever teacher an example names, a stand-in answers that takes microseconds.

* A block of ``console``: a line that starts with ``$ embedkd`` is a command (a backslash at its end goes on with the
  next line), what follows is what it prints, where anything may stand for ``...``; nothing says nothing about it.
  ``$ torchrun ... -m embedkd ARGUMENTS`` runs in one process, since tests of their own start several. Commands of
  others (``$ tensorboard ...``) are not run. A command whose output begins with ``error:`` ends with exit code 1, all
  others with 0.
* A block of ``toml`` whose first line is a comment with a file name is written to that file.
* A block of ``python`` is a doctest; those of docs/losses.md depend on one another, and tests/losses runs them.
"""

import doctest
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from embedkd.config import load_config
from embedkd.precompute import precompute
from tests.any_teacher import stand_in
from tests.cli.conftest import invoke
from tests.training.conftest import write_data

DOCS = Path(__file__).parents[2] / "docs"
TINY = {  # said here, so that the examples are those of a user
    "precompute": ("precompute.decode_workers=0", "precompute.device=cpu", "precompute.threads=1"),
    "train": ("train.workers=0", "train.device=cpu"),
}
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Example:
    """One command.

    Attributes:
        words: Of the command line, without ``embedkd``.
        expected: What it prints, as the page says.
    """

    words: tuple[str, ...]
    expected: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """Those that are given: what makes the run small comes before what the page says, which wins."""
        command, *rest = self.words
        return (command, *(word for line in TINY.get(command, ()) for word in ("--set", line)), *rest)


def sections_of(page: str) -> dict[str, list[tuple[str, str]]]:
    """Heading to its blocks, each a language and a text."""
    _, *parts = re.split(r"^## ", (DOCS / page).read_text(), flags=re.MULTILINE)
    found = {part.splitlines()[0]: _BLOCK.findall(part) for part in parts}
    return {heading: blocks for heading, blocks in found.items() if blocks}


def examples_in(block: str) -> Iterator[Example]:
    """The commands of a console block that are this program's."""
    for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        line, _, expected = part.partition("\n")
        words = shlex.split(line, comments=True)
        if words[0] == "torchrun":
            words = words[words.index("-m") + 1 :]
        if words[0] == "embedkd":
            yield Example(tuple(words[1:]), expected.strip())


def agrees(expected: str, said: str) -> bool:
    loose = re.sub(r"\s*\.\.\.\s*", "...", expected)  # it may stand for no line at all
    return not expected or doctest.OutputChecker().check_output(f"{loose}\n", f"{said.strip()}\n", _LOOSELY)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every section finds; nobody may change it."""
    folder = tmp_path_factory.mktemp("documented")
    write_data(folder / "shards")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        patch.chdir(folder)
        places = {"data.shards": "shards", "precompute.out": "store.zarr"}
        precompute(load_config(values=places, sets=TINY["precompute"]))
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a section runs."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    stand_in(monkeypatch)
    return tmp_path


def run_section(page: str, heading: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for language, text in sections_of(page)[heading]:
        if language == "toml" and (name := re.match(r"# ([\w-]+\.toml)$", text.splitlines()[0])):
            (folder / name[1]).write_text(text)
        if language == "console":
            for example in examples_in(text):
                code, out, err = invoke(capsys, example.arguments)
                line = f"$ embedkd {shlex.join(example.words)}"
                assert code == int(example.expected.startswith("error:")), f"{line}\n{err}"
                assert agrees(example.expected, out + err), f"{line}\nexpected:\n{example.expected}\ngot:\n{out}{err}"
        if language == "python" and page == "training.md":
            test = doctest.DocTestParser().get_doctest(text, {}, heading, page, 0)
            assert doctest.DocTestRunner(optionflags=_LOOSELY).run(test).failed == 0


SECTIONS = [("training.md", heading) for heading in sections_of("training.md")]
SECTIONS += [(p, h) for p in ("losses.md",) for h, blocks in sections_of(p).items() if "console" in dict(blocks)]


@pytest.mark.parametrize(("page", "heading"), SECTIONS, ids=[heading for _, heading in SECTIONS])
def test_a_section_runs(page: str, heading: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_section(page, heading, folder, capsys)


def test_what_the_commands_are() -> None:
    begin = "$ embedkd train --epochs 1 \\\n    --seed 2  # a remark\nsaid\n...\n"
    first, second = examples_in(begin + "$ tensorboard x\n$ torchrun -m embedkd train\n")
    assert (first.words, first.expected) == (("train", "--epochs", "1", "--seed", "2"), "said\n...")
    assert second.words == ("train",)
    assert agrees("said\n...\nlast", "said\nmuch\nlast")
    assert agrees("...\nsaid\n...", "said")
    assert not agrees("said\nlast", "said\nmuch\nlast")
