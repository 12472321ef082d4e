"""Which encoding each output of a teacher gets, from what was asked for."""

from typing import TYPE_CHECKING

from embedkd.errors import StoreError
from embedkd.records import LOGITS
from embedkd.store.schema import check_output

_OF_TEACHERS = ("float16", "float32")  # what specifications of teachers say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.progress import Progress
    from embedkd.records import TeacherSpec


def encoded_specs(
    specs: "Sequence[TeacherSpec]", wanted: tuple[str, ...], watch: "Progress | None" = None
) -> "list[TeacherSpec]":
    """The teachers as the store will hold them.

    Args:
        specs: Of the teachers.
        wanted: "cls=int8" for one output, "int8" for all others; "top10" alone is for logits.
        watch: Is told what an encoding does not apply to.

    Raises:
        StoreError: No teacher has an output that is named.
        FormatError: An output cannot have that encoding.
    """
    named, others = split_encodings(wanted)
    for name in named:
        if not any(name in spec.encodings for spec in specs):
            offers = "; ".join(f"{spec.name} has: {', '.join(spec.encodings)}" for spec in specs)
            raise StoreError(f"an encoding is asked for '{name}', which no teacher has; {offers}")
    made = [spec.encoded(encodings_for(spec, wanted)) for spec in specs]
    for spec in made:
        for output in spec.outputs:
            check_output(output)
        kept = [f"{o.name} {o.encoding}" for o in spec.outputs if o.name != LOGITS and o.name not in named]
        if watch is not None and others.startswith("top") and kept:
            watch.line(f"note: {others} is for logits; of {spec.name} it leaves {', '.join(kept)}")
    return made


def encodings_for(spec: "TeacherSpec", wanted: tuple[str, ...]) -> dict[str, str]:
    """The encodings that were asked for, of outputs that a teacher has."""
    named, others = split_encodings(wanted)
    fitting = [name for name in spec.encodings if name == LOGITS or not others.startswith("top")]
    everywhere = dict.fromkeys(fitting, others) if others else {}
    return everywhere | {name: encoding for name, encoding in named.items() if name in spec.encodings}


def are_meant(spec: "TeacherSpec", wanted: tuple[str, ...]) -> bool:
    """Whether a store's teacher has the encodings that were asked for, and one of its own where none was."""
    asked = encodings_for(spec, wanted)
    return all(
        encoding == asked[name] if name in asked else encoding in _OF_TEACHERS
        for name, encoding in spec.encodings.items()
    )


def split_encodings(wanted: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """Encodings of outputs by name, and the one of all others; empty where none was asked for.

    >>> split_encodings(("logits=top10", "int8"))
    ({'logits': 'top10'}, 'int8')
    """
    pairs = [entry.rpartition("=") for entry in wanted]
    others = [encoding for name, _, encoding in pairs if not name]
    return {name: encoding for name, _, encoding in pairs if name}, others[-1] if others else ""
