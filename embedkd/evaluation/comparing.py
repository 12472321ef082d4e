"""A student beside its teachers: every measure of agreement, and zero-shot classification in their spaces."""

from typing import TYPE_CHECKING

from embedkd.errors import ConfigError, TrainingError
from embedkd.evaluation.agreement import answer_agreement
from embedkd.evaluation.alignment import alignment
from embedkd.evaluation.cka import linear_cka
from embedkd.evaluation.meeting import TEXT
from embedkd.evaluation.neighbours import neighbour_overlap
from embedkd.evaluation.zero_shot import zero_shot_accuracy
from embedkd.records import LOGITS
from embedkd.store.heads import is_head_on
from embedkd.training.targets import default_output

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from embedkd.evaluation.embed import Collected
    from embedkd.evaluation.estimate import Estimate
    from embedkd.evaluation.meeting import Meeting, Meetings
    from embedkd.training.stores import RunTeacher

    Sources = Mapping[str, tuple[RunTeacher, str]]
    Named = Iterable[tuple[str, Estimate]]


def agreement_with_teachers(
    found: "Collected", meetings: "Meetings", sources: "Sources"
) -> "Iterator[tuple[str, Estimate]]":
    """Agreement of answers, cosines in the shared space, common neighbours and CKA, as far as each means something.

    Args:
        found: The student's answers, and with them the teachers' rows.
        meetings: Where student and teachers meet.
        sources: Name of each of the rows to its teacher and output.

    Yields:
        What `answer_agreement`, `alignment`, `neighbour_overlap` and `linear_cka` yield; of several teachers with
        ``@`` and the teacher's name behind each.
    """
    for teacher in meetings.compared:
        rows = _rows_of(teacher, found, sources)
        yield from _named(_with_one(teacher, rows, found, meetings), teacher, meetings)


def zero_shot(found: "Collected", meetings: "Meetings") -> "Iterator[tuple[str, Estimate]]":
    """Zero-shot accuracy in each teacher's space of texts, names as in `agreement_with_teachers`.

    Raises:
        TrainingError: The student has no such space, or which of several sets of texts is meant was not said.
    """
    spaces: dict[str, tuple[Meeting, NDArray[np.float32]]] = {}
    unnamed: ConfigError | None = None
    for met in sorted(meetings.all, key=lambda one: one.class_output != TEXT):
        if met.teacher.name not in spaces:
            try:
                texts = met.texts()
            except ConfigError as error:
                unnamed = error
                continue
            if texts is not None:
                spaces[met.teacher.name] = (met, texts)
    if not spaces and unnamed is not None:
        raise TrainingError(f"the run named none of its store's sets of class texts ({unnamed})") from unnamed
    if not spaces:
        raise TrainingError(
            "the student shares no space with class texts; train it with interactive_contrastive, or with a loss that "
            "meets image embeddings of a CLIP-like teacher, on a store with class texts"
        )
    for met, texts in spaces.values():
        measured = zero_shot_accuracy(met.ours(found.embeddings), texts, found.labels)
        yield from _named(measured, met.teacher, meetings)


def _with_one(
    teacher: "RunTeacher", rows: "Mapping[str, NDArray[np.float32]]", found: "Collected", meetings: "Meetings"
) -> "Iterator[tuple[str, Estimate]]":
    if LOGITS in rows and rows[LOGITS].shape == found.logits.shape:
        yield from answer_agreement(found.logits, rows[LOGITS], found.labels)
    here = [one for one in meetings.all if one.teacher.name == teacher.name and one.output in rows]
    here.sort(key=lambda one: not one.loss.term.entry.per_sample)  # what met the rows themselves goes first
    for met in here[:1]:
        yield from alignment(met.ours(found.embeddings), met.theirs(rows[str(met.output)]))
    embedding = rows.get(default_output(teacher.view))
    if embedding is not None:
        yield from neighbour_overlap(found.embeddings, embedding)
        yield from linear_cka(found.embeddings, embedding)


def _rows_of(teacher: "RunTeacher", found: "Collected", sources: "Sources") -> "dict[str, NDArray[np.float32]]":
    """Output to rows of one teacher; its logits may be those of a head on it."""
    spec, rows = teacher.view.spec, {}
    for name, (source, output) in sources.items():
        if source.view.spec.fingerprint == spec.fingerprint:
            rows[output] = found.targets[name]
    for name, (source, output) in sources.items():
        if is_head_on(source.view.spec, spec):
            rows.setdefault(output, found.targets[name])
    return rows


def _named(measured: "Named", teacher: "RunTeacher", meetings: "Meetings") -> "Iterator[tuple[str, Estimate]]":
    suffix = f"@{teacher.name}" if len(meetings.compared) > 1 else ""
    for name, estimate in measured:
        yield f"{name}{suffix}", estimate
