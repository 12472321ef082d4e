from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from embedkd.config.conversion import TypedText, read_dataclass
from embedkd.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class Part:
    name: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Knobs:
    flag: bool = False
    count: int = 1
    rate: float = 0.5
    text: str = "a"
    maybe: str | None = None
    limit: int | None = None
    mode: Literal["fast", "slow"] = "fast"
    pair: tuple[float, float] = (0.0, 1.0)
    weights: dict[str, float] = field(default_factory=dict)
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Root:
    knobs: Knobs = field(default_factory=Knobs)
    other: Part = Part("x")


def read(**knobs: Any) -> Knobs:
    return read_dataclass(Root, {"knobs": knobs}).knobs


def test_every_kind_of_field_is_read() -> None:
    document = {
        "flag": True,
        "count": 3,
        "rate": 2,
        "text": "b",
        "maybe": "c",
        "limit": 4,
        "mode": "slow",
        "pair": [1, 2.5],
        "weights": {"a": 1},
        "options": {"b": 0.1, "c": "d", "e": True, "f": 7},
        "parts": [{"name": "p", "sizes": [1, 2]}],
    }
    knobs = read(**document)
    assert knobs == Knobs(
        flag=True,
        count=3,
        rate=2.0,
        text="b",
        maybe="c",
        limit=4,
        mode="slow",
        pair=(1.0, 2.5),
        weights={"a": 1.0},
        options={"b": 0.1, "c": "d", "e": True, "f": 7},
        parts=(Part("p", (1, 2)),),
    )
    assert type(knobs.rate) is type(knobs.pair[0]) is type(knobs.weights["a"]) is float


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"count": "many"}, "knobs.count: expected int, got str 'many'"),
        ({"count": True}, "knobs.count: expected int, got bool True"),
        ({"count": 1.0}, "knobs.count: expected int, got float 1.0"),
        ({"flag": 1}, "knobs.flag: expected bool, got int 1"),
        ({"rate": "x"}, "knobs.rate: expected float, got str 'x'"),
        ({"text": 3}, "knobs.text: expected str, got int 3"),
        ({"maybe": 3}, "knobs.maybe: expected str, got int 3"),
        ({"pair": [1]}, "knobs.pair: expected 2 values, got 1"),
        ({"pair": [1, "x"]}, "knobs.pair[1]: expected float, got str 'x'"),
        ({"pair": 3}, "knobs.pair: expected a list, got int 3"),
        ({"weights": [1]}, "knobs.weights: expected a table, got list [1]"),
        ({"weights": {"a": "x"}}, "knobs.weights.a: expected float, got str 'x'"),
        ({"options": {"a": [1]}}, "knobs.options.a: expected bool or int or float or str, got list [1]"),
        ({"parts": [{}]}, "knobs.parts[0].name: expected a value, got none"),
        ({"parts": ["p"]}, "knobs.parts[0]: expected a table, got str 'p'"),
    ],
)
def test_a_wrong_type_is_one_line(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**knobs)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("document", "name", "hint"),
    [
        ({"knobs": {"cuont": 1}}, "knobs.cuont", "knobs.count"),
        ({"other": {"count": 1}}, "other.count", "knobs.count"),
        ({"knob": {"count": 1}}, "knob.count", "knobs.count"),
        ({"knobs": {"parts": [{"name": "p", "size": 1}]}}, "knobs.parts[0].size", "knobs.parts[0].sizes"),
        ({"knobs": {"mode": "slwo"}}, "slwo", "slow"),
    ],
)
def test_an_unknown_key_finds_the_nearest(document: dict[str, Any], name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match="did you mean") as caught:
        read_dataclass(Root, document)
    assert caught.value.name == name
    assert hint in str(caught.value)


def test_the_document_itself_is_a_table() -> None:
    with pytest.raises(ConfigError, match="config: expected a table, got list"):
        read_dataclass(Root, [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "typed", "expected"),
    [
        ("count", "3", 3),
        ("rate", "1e-3", 0.001),
        ("flag", "true", True),
        ("text", "true", "true"),
        ("text", "0123", "0123"),
        ("text", '"quoted"', "quoted"),
        ("text", "'lit#eral'", "lit#eral"),
        ("text", "a = b # c", "a = b # c"),
        ("text", "none", "none"),
        ("text", "", ""),
        ("maybe", "12345678", "12345678"),
        ("maybe", "none", None),
        ("limit", "none", None),
        ("limit", "8", 8),
        ("mode", "slow", "slow"),
        ("mode", '"slow"', "slow"),
        ("pair", "[0, 1]", (0.0, 1.0)),
        ("weights", "{a = 1}", {"a": 1.0}),
        ("options", "{a = 'x'}", {"a": "x"}),
        ("parts", "[{name = 'p'}]", (Part("p"),)),
    ],
)
def test_typed_text_is_read_as_the_key_needs_it(name: str, typed: str, expected: object) -> None:
    assert getattr(read(**{name: TypedText(typed)}), name) == expected


@pytest.mark.parametrize("typed", ["many", "3\nflag = true", "3 4"])
def test_typed_text_that_is_not_toml_stays_text(typed: str) -> None:
    with pytest.raises(ConfigError, match="expected int, got str"):
        read(count=TypedText(typed))
