import re
from xml.etree import ElementTree

import pytest

from embedkd.report.figures import COLOURS, DASHES, Curve, Drawing, Scale, draw, run_colour, run_dashes

X = [1.0, 2.0, 3.0]


def drawing(*runs: int, scale: Scale = "linear", title: str = "Loss") -> Drawing:
    return Drawing(title, "epoch", [Curve(run, X, [0.1 * (run + 1), 0.2, 0.4], mark=2) for run in runs], scale)


def test_is_one_element_that_scales_and_has_a_name() -> None:
    root = ElementTree.fromstring(draw(drawing(0, title='<"&>')))
    assert root.tag == "svg"
    assert root.get("aria-label") == '<"&>'
    assert root.get("viewBox")
    assert root.get("width") is None


def test_the_same_curves_give_the_same_bytes() -> None:
    assert draw(drawing(0, 1)) == draw(drawing(0, 1))


def test_colours_are_the_pages_and_nothing_is_left_of_matplotlibs() -> None:
    svg = draw(drawing(*range(COLOURS)))
    for run in range(COLOURS):
        assert f"stroke: {run_colour(run)}" in svg, "its line"
        assert f"fill: {run_colour(run)}" in svg, "its mark"
    assert not re.findall(r"#[0-9a-f]{6}\b(?!\")", svg)
    for foreign in ("DejaVu", "font-family", "xlink", "<style", "<metadata", "http", "<?xml"):
        assert foreign not in svg


def test_ids_are_unique_on_a_page_of_several() -> None:
    page = draw(drawing(0, 1)) + draw(drawing(0, 1, title="Another"))
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) == set(ids)


@pytest.mark.parametrize(("scale", "label"), [("linear", "0.4"), ("log", "0.1"), ("share", "40\N{NO-BREAK SPACE}%")])
def test_each_scale_has_its_numbers(scale: Scale, label: str) -> None:
    assert f">{label}</text>" in draw(drawing(0, scale=scale))


def test_runs_of_one_colour_differ_in_their_dashes() -> None:
    looks = {(run_colour(run), run_dashes(run)) for run in range(COLOURS * len(DASHES))}
    assert len(looks) == COLOURS * len(DASHES)
    assert "stroke-dasharray" in draw(drawing(COLOURS))


def test_a_single_point_is_seen() -> None:
    assert "fill: var(--run-0)" in draw(Drawing("Loss", "epoch", [Curve(0, [1.0], [0.5])]))
