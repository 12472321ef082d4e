"""A teacher's specification as a stranger may have written it: every member is looked at before a record is made of it.

`TeacherSpec.from_json` believes types. What it makes is shown, compared and hashed in many places, so nothing gets
there that one of them would stumble over.
"""

from typing import TYPE_CHECKING

from embedkd.records import MAX_VIEWS, TeacherSpec
from embedkd.store.documents import Fields
from embedkd.store.schema import check_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Check = Callable[[Fields, str], object]

MAX_OFFERED = 256
MAX_LAYERS = 1000  # the @k of an output has three digits
_MAX_LIBRARIES = 64
_MAX_PX = 1 << 16
_MAX_COLOUR = 255


def read_specification(facts: Fields) -> TeacherSpec:
    """The specification that a teacher's group holds.

    Raises:
        FormatError: A member is missing, unknown, of another type or out of bounds, or an output cannot be held.
    """
    _check(facts, "a specification", _OF_VIEWS if "view" in facts.content else _MEMBERS)
    spec = TeacherSpec.from_json(facts.content)
    for output in spec.outputs:
        check_output(output)
    names = [output.name for output in spec.outputs]
    if not names or len(set(names)) != len(names):
        raise facts.unexpected("different outputs, at least one", names)
    return spec


def _check(facts: Fields, what: str, members: "Mapping[str, Check]") -> None:
    """All of these members and no others: readers cannot tell what an unknown one decides."""
    facts.names(f"members of {what}", len(members), members.__contains__)
    for name, check in members.items():
        check(facts, name)


def _or_null(check: "Check") -> "Check":
    def checked(facts: Fields, name: str) -> None:
        if facts.content.get(name, False) is not None:
            check(facts, name)

    return checked


def _outputs(facts: Fields, name: str) -> None:
    for entry in facts.objects(name, MAX_OFFERED):
        _check(entry, "an output", _OUTPUT)


def _preprocess(facts: Fields, name: str) -> None:
    _check(facts.member(name), "a preprocess", _PREPROCESS)


def _view(facts: Fields, name: str) -> None:
    _check(facts.member(name), "a view", _VIEW)


def _share(facts: Fields, name: str) -> None:
    if not 0 <= facts.real(name) <= 1:
        raise facts.unexpected(f"{name} to be from 0 to 1", facts.content[name])


def _area(facts: Fields, name: str) -> None:
    _share(facts, name)
    if not facts.real(name):
        raise facts.unexpected(f"{name} to be above 0", facts.content[name])


def _libraries(facts: Fields, name: str) -> None:
    pairs = facts.content.get(name)
    if not isinstance(pairs, list) or len(pairs) > _MAX_LIBRARIES:
        raise facts.unexpected(f"{name} to be a list of up to {_MAX_LIBRARIES}", pairs)
    for pair in pairs:
        if len(Fields({name: pair}, facts.where).texts(name, 2)) != 2:
            raise facts.unexpected(f"{name} to be pairs of a name and a version", pair)


def _resize(facts: Fields, name: str) -> None:
    if isinstance(facts.content.get(name), list):
        _size(facts, name)
    else:
        facts.number(name, low=1, high=_MAX_PX)


def _size(facts: Fields, name: str) -> None:
    sides = facts.numbers(name, 2, high=_MAX_PX)
    if len(sides) != 2 or 0 in sides:
        raise facts.unexpected(f"{name} to be a height and a width", list(sides))


def _channels(facts: Fields, name: str) -> None:
    if len(facts.reals(name, 3)) != 3:
        raise facts.unexpected(f"{name} to be 3 numbers", facts.content[name])


def _colour(facts: Fields, name: str) -> None:
    if len(facts.numbers(name, 3, high=_MAX_COLOUR)) != 3:
        raise facts.unexpected(f"{name} to be 3 numbers", facts.content[name])


_OUTPUT: "Mapping[str, Check]" = {"name": Fields.text, "dim": Fields.number, "encoding": Fields.text}
_PREPROCESS: "Mapping[str, Check]" = {
    "resize_px": _resize,
    "crop_px": _size,
    "interpolation": Fields.text,
    "mean": _channels,
    "std": _channels,
    "backend": Fields.text,
    "pad_rgb": _or_null(_colour),
}
_VIEW: "Mapping[str, Check]" = {
    "seed": Fields.number,
    "index": lambda facts, name: facts.number(name, high=MAX_VIEWS - 1),
    "min_crop_area": _area,
    "flip": _share,
}
_MEMBERS: "Mapping[str, Check]" = {
    "name": Fields.text,
    "model": Fields.text,
    "weights_sha256": Fields.text,
    "outputs": _outputs,
    "preprocess": _preprocess,
    "normalised": Fields.flag,
    "precision": Fields.text,
    "source": Fields.text,
    "logit_scale": _or_null(Fields.real),
    "logit_bias": _or_null(Fields.real),
    "revision": _or_null(Fields.text),
    "libraries": _libraries,
    "licence": _or_null(Fields.text),
    "random_weights": Fields.flag,
    "layers": lambda facts, name: facts.number(name, high=MAX_LAYERS),
    "tokenizer": _or_null(Fields.text),
    "derived_from": _or_null(Fields.text),
}
# A teacher without a view has no such member, so specifications that are older than views mean what they meant.
_OF_VIEWS: "Mapping[str, Check]" = {**_MEMBERS, "view": _view}
