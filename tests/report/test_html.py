import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from embedkd.errors import TrainingError
from embedkd.report import write_report
from embedkd.rundir import read_json, write_json

MakeRun = Callable[..., Path]
EVIL = "<script>alert('\"&')</script>"
VOID = {"meta", "br", "col"}


class Checker(HTMLParser):
    """Every element is closed in order; collects elements, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.attributes += attributes
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.attributes += attributes

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(make_run: MakeRun, tmp_path: Path) -> str:
    runs = [make_run("a", losses={"cross_entropy": 1.0}), make_run("b"), make_run("c", finished=False, evaluated=False)]
    out = write_report(runs, tmp_path / "reports" / "report.html")
    assert out == tmp_path / "reports" / "report.html"
    return out.read_text(encoding="utf-8")


def test_is_whole_well_formed_and_loads_nothing(page: str) -> None:
    found = Checker(page)
    assert page.startswith("<!doctype html>\n")
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not {"src", "srcset", "onclick", "onload"} & {name for name, _ in found.attributes}
    assert all(value and value.startswith("#") for name, value in found.attributes if name == "href")
    assert "url(" not in page
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_has_every_part(page: str) -> None:
    found = Checker(page)
    for part in ("Results", "Curves", "Teacher and store", "Settings", "Environment", "Notes", "Table 1.", "Figure 1."):
        assert part in found.text
    assert "running or interrupted, in epoch 3 of 30" in found.text
    assert found.tags.count("figure") == 2


def test_the_same_folders_give_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("a"), make_run("b")]
    pages = {write_report(runs, tmp_path / f"{name}.html").read_bytes() for name in "xy"}
    assert len(pages) == 1


def test_every_value_is_shown_as_text(make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run(EVIL.replace("/", "\N{DIVISION SLASH}"), evaluation={"data": EVIL, "left_out": {EVIL: 1}})
    for name in ("config.json", "environment.json", "result.json"):
        document = read_json(path / name)
        poisoned = {key: EVIL if isinstance(value, str) else value for key, value in document.items()}
        write_json(path / name, {**poisoned, EVIL: EVIL})
    config = read_json(path / "config.json")
    config["losses"] = {EVIL: 0.5, "mse": 1.0}
    config["student"]["name"] = config["train"]["targets"] = EVIL
    write_json(path / "config.json", config)
    result = read_json(path / "result.json")
    write_json(path / "result.json", {**result, "losses": {EVIL: 1.0}, "view_mismatch": [EVIL], "left_out": {EVIL: 3}})
    lines = (path / "metrics.jsonl").read_text().replace("class_contrastive", EVIL.replace('"', '\\"'))
    (path / "metrics.jsonl").write_text(lines)
    page = write_report([path], tmp_path / "report.html").read_text(encoding="utf-8")
    found = Checker(page)
    assert "<script" not in page
    assert "script" not in found.tags
    assert found.text.count("alert(") >= 10


def test_one_run_is_named_on_top_and_needs_no_legend(make_run: MakeRun, tmp_path: Path) -> None:
    page = write_report([make_run("only")], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>only</h1>" in page
    assert 'class="legend"' not in page


def test_environments_that_differ_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("a"), make_run("b")]
    write_json(runs[1] / "environment.json", {"python": "9.9"})
    page = write_report(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<p>b</p>.*9\.9", page)


def test_a_run_of_no_lines_yet_is_a_page_too(make_run: MakeRun, tmp_path: Path) -> None:
    page = write_report([make_run(epochs=0, finished=False, evaluated=False)], tmp_path / "report.html").read_text()
    assert "Curves" not in Checker(page).text


def test_a_run_that_cannot_be_read_leaves_the_old_page(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    with pytest.raises(TrainingError):
        write_report([make_run("a"), tmp_path / "none"], out)
    assert out.read_text() == "old"
