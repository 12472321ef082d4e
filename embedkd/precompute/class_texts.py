"""Class sets of texts: what a teacher's text tower says of the class names, put into prompt templates."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import StoreError, TeacherError
from embedkd.records import blake2b_hex, canonical_json
from embedkd.store import ClassSet, TeacherView, set_names, write_class_set
from embedkd.store.classes import prompts_digest, read_class_set
from embedkd.store.schema import is_set_name
from embedkd.teachers.prompts import TEMPLATES, fill_prompt, read_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from embedkd.progress import Progress
    from embedkd.teachers import Teacher

_OUTPUT = "text"
_TEXTS_A_BATCH = 256


def add_class_texts(
    view: TeacherView, teacher: "Teacher", prompts: str, watch: "Progress", name: str | None = None
) -> ClassSet:
    """Embed every class name of the manifest in every template, and store the means as a class set of ``text``.

    Each text is L2-normalised, then averaged over the templates; the mean itself is not normalised again. A finished
    set of the same templates and class names is not computed again.

    Args:
        view: The teacher's part of a store.
        teacher: The same teacher, loaded.
        prompts: See `embedkd.teachers.prompts.read_prompts`.
        watch: Whoever watches.
        name: Of the set; "prompts-clip", "prompts-simple" or, for a file, "prompts-" and its stem where None is given.

    Raises:
        ConfigError: The templates cannot be had.
        StoreError: The store has no class names, or a set of that name holds something else.
        TeacherError: The teacher has no text tower, is another one than the store's, or gives no finite embedding.
    """
    templates = read_prompts(prompts)
    class_names = view.store.class_names
    output = view.spec.output(_OUTPUT)
    if output is None or teacher.tokenize is None:
        raise TeacherError(f"{teacher.spec.name} has no output '{_OUTPUT}' for prompts; it has: {teacher.spec.offer}")
    if teacher.spec.encoded(view.spec.encodings).fingerprint != view.spec.fingerprint:
        raise TeacherError(f"{teacher.spec.name} is not the teacher of {view.teacher_id}; load the one that made it")
    if class_names is None:
        raise StoreError(f"{view.store.storage.url} has no class names to put into prompts; pack the data with names")
    digest = prompts_digest(templates, class_names)
    chosen = name or _default_name(prompts, templates)
    if chosen in set_names(view, _OUTPUT):
        found = read_class_set(view, chosen, output)
        if found.commits != digest:
            raise StoreError(f"class set '{chosen}' is there with other prompts or rows; give the new one another name")
        return found
    mean, spread = _embed(teacher, templates, class_names, watch)
    count = np.full(len(class_names), len(templates), dtype=np.int64)
    made = ClassSet(chosen, mean, count, spread, len(templates), 0, digest, templates)
    write_class_set(view, _OUTPUT, made)
    return made


def _default_name(prompts: str, templates: "Sequence[str]") -> str:
    name = f"prompts-{prompts if prompts in TEMPLATES else Path(prompts).stem}"
    return name if is_set_name(name) else f"prompts-{blake2b_hex(canonical_json(list(templates)))[:8]}"


def _embed(
    teacher: "Teacher", templates: "Sequence[str]", class_names: "Sequence[str]", watch: "Progress"
) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """Mean [C, D] and spread [C] over the templates, in their order."""
    means, spreads = [], []
    watch.begin("class texts", len(class_names), "classes")
    # A batch holds whole classes: their number alone decides what is computed together.
    step = max(1, _TEXTS_A_BATCH // len(templates))
    for start in range(0, len(class_names), step):
        names = class_names[start : start + step]
        rows = _rows(teacher, [fill_prompt(template, name) for name in names for template in templates])
        for name, texts in zip(names, rows.reshape(len(names), len(templates), -1), strict=True):
            mean, spread = _average(texts)
            if not (np.isfinite(mean).all() and np.isfinite(spread)):
                raise TeacherError(f"{teacher.spec.name} gives no finite embedding for the class '{name}'")
            means.append(mean)
            spreads.append(spread)
        watch.advance(len(names))
    watch.end()
    return np.array(means, dtype=np.float32), np.array(spreads, dtype=np.float32)


def _rows(teacher: "Teacher", texts: list[str]) -> "NDArray[np.float64]":
    assert teacher.tokenize is not None
    tokens = teacher.tokenize(texts)
    parts = [
        teacher.embed_text(tokens[start : start + _TEXTS_A_BATCH]).numpy()
        for start in range(0, len(texts), _TEXTS_A_BATCH)
    ]
    return np.concatenate(parts).astype(np.float64)


def _average(texts: "NDArray[np.float64]") -> "tuple[NDArray[np.float64], float]":
    """Mean [D] and root mean square distance from it, of rows [P, D] at length 1, added one after another."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a row without length is refused by its NaN
        units = texts / np.sqrt((texts**2).sum(axis=1, keepdims=True))
    total, squares = np.zeros(texts.shape[1]), 0.0
    for unit in units:
        total += unit
    mean = total / len(units)
    for unit in units:
        squares += float(((unit - mean) ** 2).sum())
    return mean, float(np.sqrt(squares / len(units)))
