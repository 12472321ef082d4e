import re
from collections.abc import Callable
from pathlib import Path

from embedkd.evaluation import proportion
from embedkd.report.figures import draw
from embedkd.report.html import render_page
from embedkd.report.measures import measures_table, reliability
from embedkd.report.runs import read_runs
from embedkd.report.units import MISSING
from tests.report.conftest import MEASURED

MakeRun = Callable[..., Path]


def rows_of(markup: str) -> list[list[str]]:
    return [
        [re.sub(r"<[^>]*>", "", cell).replace("\xa0", " ").strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr.*?</tr>", markup)
    ]


def test_each_number_is_in_its_unit_and_a_missing_one_is_a_dash(make_run: MakeRun) -> None:
    table = measures_table(read_runs([make_run("all", evaluation=MEASURED), make_run("few")]))
    assert table is not None
    found = {name: cells for name, *cells in rows_of(table)}
    assert found["ECE"] == ["5.1 % [3.0, 7.0]", MISSING]
    assert found["NLL"] == ["2.345 [2.100, 2.600]", MISSING]
    assert found["temperature"] == ["1.400", MISSING]
    assert found["CKA (vit-l-32)"] == ["0.612", MISSING]
    assert found["newer"] == ["7.000", MISSING], "a metric of a later version is shown as it is"
    assert found["k-NN"] == [MISSING, "40.0 % [33.5, 46.9]"]
    assert list(found)[-1] == "newer"


def test_what_the_results_show_alone_is_not_shown_twice(make_run: MakeRun) -> None:
    assert measures_table(read_runs([make_run()])) is None
    val = make_run("val", evaluation={**MEASURED, "split": "val"})
    assert measures_table(read_runs([val])) is None, "the page reports the test split"


def test_reliability_is_accuracy_over_confidence(make_run: MakeRun) -> None:
    runs = read_runs([make_run("few"), make_run("all", evaluation=MEASURED)])
    plain, scaled = reliability(runs)
    (curve,) = plain.curves
    assert (curve.run, list(curve.x), list(curve.y)) == (1, [0.3, 0.9], [0.4, 0.6])
    assert curve.sizes == [0.75, 0.25]
    assert scaled.curves[0].x == [0.35]
    picture = draw(plain)
    assert "confidence" in picture
    assert picture.count("100\xa0%") == 2, "both axes are shares"


def test_a_page_has_them_in_their_places(make_run: MakeRun) -> None:
    page = render_page(read_runs([make_run(evaluation=MEASURED)]))
    places = [page.index(f"<h2>{title}</h2>") for title in ("Curves", "Measures", "Classes", "Settings")]
    assert places == sorted(places)
    assert "no temperature &lt;was&gt; fitted" in page
    assert "<h2>Measures</h2>" not in render_page(read_runs([make_run("bare")]))


def test_any_number_of_metrics_stays_bounded(make_run: MakeRun) -> None:
    metrics = {f"m{number}": proportion(1, 2) for number in range(5000)}
    table = measures_table(read_runs([make_run(evaluation={"metrics": metrics})]))
    assert table is not None
    assert table.count("<tr>") == 201
