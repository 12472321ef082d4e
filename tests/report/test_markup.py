from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from embedkd.errors import printable_lines
from embedkd.report.markup import Markup, render, tag


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(), st.text())
def test_any_text_comes_back_as_text_and_makes_no_element(text: str, value: str) -> None:
    reader = Reader()
    reader.feed(tag("p", text, title=value))
    reader.close()
    assert reader.text == printable_lines(text)
    assert reader.tags == [("p", {"title": printable_lines(value)})]


def test_markup_is_not_escaped_twice() -> None:
    inner = tag("b", "<&>")
    assert render(inner, "<") == "<b>&lt;&amp;&gt;</b>&lt;"
    assert tag("p", inner) == f"<p>{inner}</p>"
    assert isinstance(render("x"), Markup)


def test_void_elements_have_no_end_and_missing_attributes_are_left_out() -> None:
    assert tag("meta", charset="utf-8", name=None) == '<meta charset="utf-8">'
    assert tag("line", x1=0, stroke_width=2, class_="tick") == '<line x1="0" stroke-width="2" class="tick"></line>'
