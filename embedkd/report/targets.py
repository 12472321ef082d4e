"""Where the targets of runs came from: the teacher and its store, as far as the store can be opened from here."""

from collections import defaultdict
from typing import TYPE_CHECKING

from embedkd.errors import EmbedKDError
from embedkd.report import units
from embedkd.training.stores import open_teacher, store_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.records import TeacherSpec
    from embedkd.report.runs import Run
    from embedkd.store import EmbeddingStore, TeacherView

Facts = list[tuple[str, str]]
_SHOWN_DIGITS = 16


def targets_of(runs: "Sequence[Run]") -> list[tuple[list[int], Facts]]:
    """The stores that runs learnt from.

    Returns:
        For each store and teacher: positions of the runs, and facts to show.
    """
    users: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for number, run in enumerate(runs):
        for entry in run.targets if not (run.finished and run.fact("teacher") is None) else ():
            users[entry, run.setting("train", "teacher")].append(number)
    return [(numbers, _facts(entry, teacher)) for (entry, teacher), numbers in users.items()]


def _facts(entry: str, teacher: str | None) -> Facts:
    try:
        view = open_teacher(entry, teacher)
    except EmbedKDError as error:
        return [("Store", entry), ("Not opened", str(error))]
    return [*_teacher_facts(view.spec), *_store_facts(store_of(entry), view.store, view)]


def _teacher_facts(spec: "TeacherSpec") -> Facts:
    facts = [
        ("Teacher", spec.name),
        ("Architecture", spec.model),
        ("Weights", "random, not trained" if spec.random_weights else spec.source),
        ("Revision", spec.revision),
        ("Licence", spec.licence),
        ("SHA-256 of the weights", f"{spec.weights_sha256[:_SHOWN_DIGITS]}…"),
        ("Input", str(spec.preprocess)),
        ("Precision", spec.precision),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in spec.libraries)),
    ]
    return [(label, value) for label, value in facts if value]


def _store_facts(url: str, store: "EmbeddingStore", view: "TeacherView") -> Facts:
    rows: dict[str, int] = defaultdict(int)
    for slot in store.slots:
        rows[slot.shard.split] += slot.rows
    outputs = [spec for name in view.spec.ordered(view.outputs) if (spec := view.spec.output(name)) is not None]
    classes = store.class_names
    return [
        ("Outputs", ", ".join(f"{output.name} ({output.dim}, {output.encoding})" for output in outputs)),
        ("Store", f"{url}, id {store.uuid}"),
        ("Shards", f"{units.count(len(store.shards))} of {store.manifest.root}"),
        ("Samples", ", ".join(f"{units.count(count)} {split}" for split, count in rows.items())),
        ("Classes", units.count(None if classes is None else len(classes))),
    ]
