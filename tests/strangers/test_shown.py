"""What is printed about a store or a run: nothing in it acts on a terminal, makes HTML, or turns text around."""

import ast
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import embedkd.cli
from embedkd.cli import main, output, progress
from embedkd.records import OutputSpec, Shard
from embedkd.report import write_report
from embedkd.store import average, open_store, write_class_set
from tests.store.samples import make
from tests.strangers.conftest import SPEC
from tests.strangers.forge import forge, read_folder, under, write_folder

EVIL = "<img src=x onerror=alert(1)> [bold red]x[/] `y` \u202egnp.exe | *z* &amp;"
CONTROLS = "\x1b[31m\x1b]0;owned\x07\r\n\x9b2J"
HOSTILE = replace(
    SPEC,
    name=f"vit:{EVIL}",
    model=EVIL,
    source=EVIL,
    licence=EVIL,
    revision=EVIL,
    libraries=((EVIL, EVIL),),
    tokenizer=EVIL,
    derived_from=EVIL,
    outputs=(OutputSpec("cls", 3), OutputSpec("logits", 4)),
    preprocess=replace(SPEC.preprocess, interpolation=EVIL, backend=EVIL),
)
SHARDS = (Shard(f"{EVIL}/a.tar".replace("://", ""), "train", 9_216, 5, "a" * 64),)
# Of all that a terminal acts on or hides; line ends are ours.
ACTIVE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A legal store, with everything in it that a text may hold."""
    folder = tmp_path_factory.mktemp("hostile") / "store.zarr"
    store = make(
        folder, {HOSTILE: (("cls",),)}, SHARDS, capacity=8, classes=(EVIL, "x" * 4096, "\u202ec"), root=f"data:{EVIL}"
    )
    view = store.teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=1, seed=0))
    return folder


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """A command; its exit code and all that it printed."""

    def command(*arguments: object) -> tuple[int, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["embedkd", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int | None)
        return ended.value.code or 0, out + err

    return command


def commands(store: Path, other: Path) -> list[tuple[int, tuple[object, ...]]]:
    """Exit codes and commands."""
    return [
        (0, ("store", "info", store)),
        (0, ("store", "info", store, "--json")),
        (0, ("store", "verify", store)),
        (0, ("store", "card", store, "--dry-run")),
        (0, ("store", "diff", store, other)),
        (0, ("store", "seal", store, "--dry-run")),
        (0, ("store", "repair", store, "--dry-run")),
        (0, ("store", "copy", store, other / "copy", "--dry-run")),
        (0, ("store", "merge", store, "--out", other / "merged", "--dry-run")),
        (0, ("store", "subset", store, other / "part", "--slots", "0", "--dry-run")),
        (0, ("average", store, "--per-class", "1")),
        (1, ("store", "subset", store, other / "part", "--classes", f"nobody{CONTROLS}")),
        (1, ("store", "append", store, "--data", f"{CONTROLS}{EVIL}")),
        (1, ("train", "--targets", store, "--student", "vit-tiny", "--out", other / "run")),
        (1, ("train", "--targets", store, "--student", EVIL + CONTROLS, "--out", other / "run")),
        (1, ("head", store, "--name", EVIL + CONTROLS)),
        (1, ("store", "info", other / f"nothing{EVIL}{CONTROLS}")),
    ]


def test_commands_print_no_control_character(
    hostile: Path, tmp_path: Path, sound: dict[str, bytes], run: Callable[..., tuple[int, str]]
) -> None:
    other = write_folder(sound, tmp_path / "other.zarr")
    shown = 0
    for code, command in commands(hostile, other):
        ended, printed = run(*command)
        assert ended == code, printed
        assert not ACTIVE.search(printed), (command, printed)
        assert "Traceback" not in printed
        shown += "onerror" in printed
    assert shown >= 5, "the texts were shown, so this test says something"


def test_problems_of_a_broken_store_are_printed_harmlessly(
    hostile: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    files = read_folder(hostile)
    broken = forge(files, under(files, r".*/commits/0\.json"), lambda commit: commit["source"].update(bytes=1))
    folder = write_folder(broken, tmp_path / "broken.zarr")
    for command in ("verify", "repair"):
        _, printed = run("store", command, folder)
        assert "onerror" in printed
        assert not ACTIVE.search(printed)


def test_everything_is_printed_by_one_module() -> None:
    """Nobody goes around `say`: a new command that did would show what strangers wrote."""
    folder = Path(embedkd.cli.__file__).parent
    for path in folder.glob("*.py"):
        names = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        around = names & {"print", "typer.echo", "typer.secho", "click.echo", "sys.stdout.write", "sys.stderr.write"}
        assert around == ({"typer.echo"} if path.name == "output.py" else set()), path.name


@pytest.mark.parametrize("watcher", [progress.Lines, progress.Bars])
def test_progress_shows_texts_as_they_are(watcher: Any, capfd: pytest.CaptureFixture[str]) -> None:
    watch = watcher()
    watch.begin(f"read {EVIL}{CONTROLS}", 2, "slots")
    watch.advance(1, f"{EVIL}{CONTROLS}")
    watch.line(f"{EVIL}{CONTROLS[:-6]}")
    watch.end()
    printed = "".join(capfd.readouterr())
    assert "[bold red]x[/]" in printed, "no markup of the terminal library either"
    assert not ACTIVE.search(printed)


def test_tables_are_as_wide_as_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_rows(("a", "b"), [("\x1b", "1"), ("xx", "2")])
    assert capsys.readouterr().out == "a     b\n\\x1b  1\nxx    2\n"


class Page(HTMLParser):
    """Elements and handlers of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.add(name)
        self.attributes |= {key for key, _ in attributes}


def test_a_report_about_a_store_of_a_stranger_holds_no_markup_of_theirs(hostile: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    config = {
        "train": {"targets": str(hostile), "out": EVIL, "epochs": 3},
        "losses": {EVIL + CONTROLS: 1.0, "cross_entropy": 0.5},
        "student": {"name": EVIL + CONTROLS, "image_px": 32},
        "data": {"shards": "\ud800" + EVIL},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps({EVIL: CONTROLS}))
    page = write_report([folder], tmp_path / "report.html").read_text()
    parsed = Page()
    parsed.feed(page)
    assert "onerror" in page
    assert "Outputs" in page, "the store was opened"
    assert not parsed.elements & {"img", "script", "iframe", "a", "link", "b onerror"}
    assert not {name for name in parsed.attributes if name.startswith("on")}
    assert not ACTIVE.search(page)


def test_the_store_that_is_shown_is_the_one_that_is_there(hostile: Path) -> None:
    """Made harmless where it is shown, and not where it is kept."""
    assert open_store(hostile).class_names == (EVIL, "x" * 4096, "\u202ec")
    assert open_store(hostile).teacher().spec.licence == EVIL
