"""What a run of precompute leaves, and whether it is there already. Imports no torch and no teacher."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError
from embedkd.precompute.averages import class_sets_done
from embedkd.precompute.encodings import are_meant
from embedkd.precompute.opening import EMBEDDED_DATA, check_listing
from embedkd.precompute.rows import TEXT, image_outputs
from embedkd.sources.shards import list_data
from embedkd.storage import open_storage
from embedkd.store import EmbeddingStore, TeacherView, is_created, open_store, set_names
from embedkd.store.classes import prompts_digest
from embedkd.teachers.names import resolve_name
from embedkd.teachers.prompts import TEMPLATES, read_prompts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedkd.config import Config, PrecomputeConfig
    from embedkd.records import TeacherSpec
    from embedkd.teachers.base import ResolvedName


@dataclass(frozen=True)
class TeacherResult:
    """One teacher's part of a `PrecomputeResult`.

    Attributes:
        teacher_id: The teacher's folder in the store.
        name: The teacher's full name.
        outputs: Outputs that were asked for.
        computed: Rows of samples that this run computed, those of its views too; 0 where nothing was left to do.
        bad: Rows without an embedding, by reason, over all outputs.
        class_sets: Names of the class sets, by output.
        random_weights: Whether its weights were drawn and not trained.
        views: Stored views that were asked for.
    """

    teacher_id: str
    name: str
    outputs: tuple[str, ...]
    computed: int
    bad: "Mapping[str, int]"
    class_sets: "Mapping[str, tuple[str, ...]]"
    random_weights: bool = False
    views: int = 0


@dataclass(frozen=True)
class PrecomputeResult:
    """What a run of `precompute` leaves.

    Attributes:
        store: Path of the store.
        rows: Samples in the store.
        computed: Samples that this run computed, over all teachers and views; 0 where the store was finished already.
        seconds: Wall time of this run from the first image to the last commit.
        teachers: One entry a teacher, in the order of their names.
    """

    store: str
    rows: int
    computed: int
    seconds: float
    teachers: tuple[TeacherResult, ...]

    @property
    def wanted(self) -> int:
        """Samples over all teachers and views that were asked for."""
        return self.rows * sum(1 + entry.views for entry in self.teachers)


def find_finished(config: "Config") -> PrecomputeResult | None:
    """The result that is there already, or None where something is left to do.

    Shards are compared by name, size and BLAKE2b. A teacher that is a path is never taken for finished, since the
    weights behind a path may change.

    Raises:
        StoreError: The store was made from other shards.
        ConfigError: No teacher is called so, or two names mean the same one.
    """
    wanted = config.precompute
    resolved = resolve_names(wanted.teachers)
    storage = open_storage(wanted.out)
    if not is_created(storage) or any(name.weights is not None for name in resolved):
        return None
    store = open_store(storage)
    check_listing(store, list_data(config.data.shards or EMBEDDED_DATA))
    views = [TeacherView(store, teacher_id) for teacher_id in store.teacher_ids]
    found = [_find_teacher(views, name, config) for name in resolved]
    entries = tuple(entry for entry in found if entry is not None)
    chosen = {output for entry in entries for output in entry.outputs}
    if len(entries) < len(resolved) or not set(wanted.outputs) <= chosen:
        return None
    if wanted.class_prompts is not None and not any(_has_prompts(view, wanted.class_prompts) for view in views):
        return None
    return make_result(store, entries, seconds=0.0)


def resolve_names(names: "Sequence[str]") -> "list[ResolvedName]":
    """What the names of teachers mean.

    Raises:
        ConfigError: No teacher is called so, or two names mean the same one.
    """
    resolved = [resolve_name(name) for name in names]
    facts = [(name.name, name.weights) for name in resolved]
    for at, one in enumerate(facts):
        if one in facts[:at]:
            raise ConfigError(f"'{names[facts.index(one)]}' and '{names[at]}' are the same teacher; name it once")
    return resolved


def _find_teacher(views: list[TeacherView], name: "ResolvedName", config: "Config") -> TeacherResult | None:
    for view in views:
        if not _is_meant(view.spec, name, config.precompute):
            continue
        asked = [output for output in config.precompute.outputs if view.spec.output(output) is not None]
        outputs = view.spec.ordered(dict.fromkeys(asked))
        if not config.precompute.outputs:
            outputs = view.spec.default_outputs
        if not _is_complete(view, outputs) or not class_sets_done(view, outputs, config.average):
            continue
        seen = {other.spec.fingerprint: other for other in views}
        wanted = [seen.get(replace(view.spec, view=one).fingerprint) for one in config.precompute.view_specs]
        if all(other is not None and _is_complete(other, image_outputs(outputs)) for other in wanted):
            return describe_teacher(view, outputs, views=len(wanted), computed=0)
    return None


def _is_complete(view: TeacherView, outputs: tuple[str, ...]) -> bool:
    return bool(outputs) and set(outputs) <= set(view.outputs) and not any(map(view.holes, outputs))


def _is_meant(spec: "TeacherSpec", name: "ResolvedName", wanted: "PrecomputeConfig") -> bool:
    """Whether a specification is what this name would load with these settings."""
    if spec.view is not None or spec.name != name.name or wanted.precision not in {"auto", spec.precision}:
        return False
    if not are_meant(spec, wanted.encoding):
        return False
    if wanted.weights == "random":
        return spec.random_weights and spec.source == f"random weights, seed {wanted.seed}"
    return not spec.random_weights


def _has_prompts(view: TeacherView, prompts: str) -> bool:
    """Whether a class set of these templates is there, by name or, for a file, by its digest."""
    names = view.store.class_names
    if names is None or view.spec.output(TEXT) is None:
        return False
    if prompts in TEMPLATES:  # by name: reading CLIP's own templates takes seconds
        return f"prompts-{prompts}" in set_names(view, TEXT)
    digest = prompts_digest(read_prompts(prompts), names)
    return any(view.class_set(name, TEXT).commits == digest for name in set_names(view, TEXT))


def describe_teacher(view: TeacherView, outputs: tuple[str, ...], *, views: int, computed: int) -> TeacherResult:
    """One teacher's entry, read from the store; what its views lack is counted with them, and not here."""
    bad: Counter[str] = Counter()
    for output in outputs:
        bad.update({reason: int(n) for reason, column in view.counts(output).bad.items() if (n := column.sum())})
    shown = outputs if TEXT in outputs or not set_names(view, TEXT) else (*outputs, TEXT)
    return TeacherResult(
        teacher_id=view.teacher_id,
        name=view.spec.name,
        outputs=outputs,
        computed=computed,
        bad=dict(bad),
        class_sets={output: tuple(set_names(view, output)) for output in shown},
        random_weights=view.spec.random_weights,
        views=views,
    )


def make_result(store: EmbeddingStore, teachers: tuple[TeacherResult, ...], *, seconds: float) -> PrecomputeResult:
    """Entries and their totals."""
    return PrecomputeResult(
        store=store.storage.url,
        rows=sum(slot.rows for slot in store.slots),
        computed=sum(entry.computed for entry in teachers),
        seconds=seconds,
        teachers=teachers,
    )
