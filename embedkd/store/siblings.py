"""Which teachers of a store were made of which: stored views of one, and heads on its rows."""

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from embedkd.store.heads import is_head_on

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedkd.records import TeacherSpec, ViewSpec


@dataclass(frozen=True)
class ViewGroup:
    """Stored views of one teacher that differ in their index alone.

    Attributes:
        views: By index.
        ids: Of the teachers that they are.
    """

    views: "tuple[ViewSpec, ...]"
    ids: tuple[str, ...]

    def __str__(self) -> str:
        """One line for people.

        >>> from embedkd.records import ViewSpec
        >>> print(ViewGroup(tuple(ViewSpec(0, index, 0.35, 0.5) for index in range(8)), ("x",) * 8))
        8 of seed 0, crops from 0.35 of the area, mirrored with probability 0.5
        """
        first, indices = self.views[0], [view.index for view in self.views]
        which = "" if indices == list(range(len(indices))) else f" ({', '.join(map(str, indices))})"
        crops = f"crops from {first.min_crop_area:g} of the area, mirrored with probability {first.flip:g}"
        return f"{len(indices)}{which} of seed {first.seed}, {crops}"


def views_among(teachers: "Mapping[str, TeacherSpec]", teacher_id: str) -> tuple[str, ...]:
    """Ids of the stored views of a teacher, or of the teacher that it is a view of, without that one itself.

    Args:
        teachers: Of a store, by id.
        teacher_id: One of them.

    Returns:
        By seed, then by index.
    """
    plain = teachers[teacher_id].plain.fingerprint
    found = [(spec.view, name) for name, spec in teachers.items() if spec.view and spec.plain.fingerprint == plain]
    found.sort(key=lambda entry: (entry[0].seed, entry[0].min_crop_area, entry[0].flip, entry[0].index))
    return tuple(name for _, name in found)


def without_views(teachers: "Mapping[str, TeacherSpec]") -> "dict[str, TeacherSpec]":
    """The teachers that are no view of another one among them."""
    plain = {spec.fingerprint for spec in teachers.values() if spec.view is None}
    return {name: spec for name, spec in teachers.items() if spec.view is None or spec.plain.fingerprint not in plain}


def without_heads(teachers: "Mapping[str, TeacherSpec]") -> "dict[str, TeacherSpec]":
    """The teachers that are no head on another one's rows among them."""
    return {
        name: spec for name, spec in teachers.items() if not any(is_head_on(spec, base) for base in teachers.values())
    }


def view_groups(teachers: "Mapping[str, TeacherSpec]", teacher_id: str) -> tuple[ViewGroup, ...]:
    """The stored views of a teacher, those together that differ in their index alone.

    Args:
        teachers: Of a store, by id.
        teacher_id: One of them.
    """
    found = [(view, name) for name in views_among(teachers, teacher_id) if (view := teachers[name].view) is not None]
    alike = groupby(found, key=lambda entry: (entry[0].seed, entry[0].min_crop_area, entry[0].flip))
    return tuple(ViewGroup(*map(tuple, zip(*members, strict=True))) for _, members in alike)
