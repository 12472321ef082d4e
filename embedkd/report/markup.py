"""HTML that is safe by construction: text is escaped unless it is already markup, and only this module makes markup.

What a browser would not show as it stands, such as marks that turn text around, is spelt out.
"""

from html import escape

from embedkd.errors import printable_lines

_VOID = {"meta", "col", "br"}


class Markup(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


def _escaped(content: object) -> str:
    return escape(printable_lines(str(content)))


def render(*content: object) -> Markup:
    """Content one after another; whatever is not markup is shown as text.

    >>> render("a < b", Markup("<br>"), 3)
    'a &lt; b<br>3'
    """
    return Markup("".join(part if isinstance(part, Markup) else _escaped(part) for part in content))


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """One element.

    Args:
        name: The element's name.
        content: What it holds; escaped where it is not markup.
        attributes: Escaped; ``_`` stands for ``-``, a trailing one is dropped (``class_``), None leaves it out.

    >>> tag("td", "<b>", class_="name", aria_label='"x"', title=None)
    '<td class="name" aria-label="&quot;x&quot;">&lt;b&gt;</td>'
    """
    pairs = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = "".join(f' {key}="{_escaped(value)}"' for key, value in pairs.items())
    closing = "" if name in _VOID else f"</{name}>"
    return Markup(f"<{name}{opening}>{render(*content)}{closing}")
