"""What `embedkd precompute` does, from names to a finished store.

Heavy imports happen after the question whether there is anything left to do, so a finished store answers at once.
"""

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedkd.errors import Interrupted, StoreError
from embedkd.precompute.averages import add_class_set, class_sets_done
from embedkd.precompute.hardware import device_model, resolve_device, use_threads
from embedkd.precompute.opening import EMBEDDED_DATA, Opening, check_listing
from embedkd.precompute.process import ShardProcessor
from embedkd.progress import Progress, Silent
from embedkd.rundir import usable_cpus
from embedkd.sources.shards import list_data
from embedkd.storage import open_storage
from embedkd.store import EmbeddingStore, Pass, PassWriter, TeacherView, is_created, open_store, set_names
from embedkd.teachers.names import resolve_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedkd.config import Config, PrecomputeConfig
    from embedkd.teachers.base import Teacher


@dataclass(frozen=True)
class PrecomputeResult:
    """What a run of `precompute` leaves.

    Attributes:
        store: Path of the store.
        teacher_id: The teacher's folder in it.
        outputs: Outputs of the pass.
        rows: Samples in the store.
        computed: Samples that this run computed; 0 where the store was finished already.
        bad: Rows without an embedding, by reason, over all outputs.
        seconds: Wall time of this run from the first image to the last commit.
        class_sets: Names of the class sets, by output.
    """

    store: str
    teacher_id: str
    outputs: tuple[str, ...]
    rows: int
    computed: int
    bad: "Mapping[str, int]"
    seconds: float
    class_sets: "Mapping[str, tuple[str, ...]]"


def find_finished(config: "Config") -> PrecomputeResult | None:
    """The result that is there already, or None where something is left to do. Imports no torch and no teacher.

    Shards are compared by name, size and BLAKE2b. A teacher that is a path is never taken for finished, since the
    weights behind a path may change.

    Raises:
        StoreError: The store was made from other shards.
        UnknownNameError: No teacher is called so.
    """
    wanted = config.precompute
    resolved = resolve_name(wanted.teacher)
    storage = open_storage(wanted.out)
    if not is_created(storage) or resolved.weights is not None:
        return None
    store = open_store(storage)
    check_listing(store, list_data(config.data.shards or EMBEDDED_DATA))
    for teacher_id in store.teacher_ids:
        view = TeacherView(store, teacher_id)
        outputs = wanted.outputs or view.spec.default_outputs
        if view.spec.name != resolved.name or not set(outputs) <= set(view.outputs):
            continue
        if not any(view.holes(output) for output in outputs) and class_sets_done(view, outputs, config.average):
            return _result(view, outputs, computed=0, seconds=0.0)
    return None


def precompute(config: "Config", progress: Progress | None = None) -> PrecomputeResult:
    """Run a teacher over shards and write what it says into a store, then the default class means.

    Args:
        config: Its sections ``data``, ``precompute`` and ``average``.
        progress: Who watches.

    Raises:
        SourceError: A shard or a label cannot be used.
        TeacherError: The teacher cannot be loaded or run.
        StoreError: The store belongs to other shards, or another writer disagrees.
        Interrupted: Ctrl-C; what was committed stays, and the same command goes on.
    """
    finished = find_finished(config)
    if finished is not None:
        return finished
    watch = progress or Silent()
    opening = Opening.of(config, watch)

    from embedkd.teachers import LoadOptions, load_teacher, tune_allocator

    tune_allocator()
    watch.line(f"loading {config.precompute.teacher}")
    device = resolve_device(config.precompute.device)
    teacher = load_teacher(config.precompute.teacher, LoadOptions(device=device, precision=config.precompute.precision))
    outputs = _check_outputs(teacher, config.precompute.outputs)
    store = opening.store(config)  # only now: a teacher that cannot be had leaves nothing behind
    started, computed = time.perf_counter(), 0
    for plan in _passes(store, teacher, outputs, config.precompute, device_model(device)):
        writer = PassWriter(store, teacher.spec, plan)
        use_threads(writer.plan.threads)
        processor = ShardProcessor(
            store,
            opening.listing.root,
            teacher,
            writer,
            decode_threads=config.precompute.decode_threads or usable_cpus(),
            max_bad_fraction=config.precompute.max_bad_fraction,
            progress=watch,
        )
        _run(processor, store, writer, watch)
        computed += processor.tally.rows
    seconds = time.perf_counter() - started
    view = TeacherView(store, teacher.spec.teacher_id)
    for output in outputs:
        add_class_set(view, output, config.average, watch)
    return _result(view, outputs, computed=computed, seconds=seconds)


def _run(processor: ShardProcessor, store: EmbeddingStore, writer: PassWriter, watch: Progress) -> None:
    left = tuple(slot for slot in store.slots if not writer.is_committed(slot))
    watch.begin("precompute", sum(slot.rows for slot in left), "images")
    try:
        processor.run(left)
    except KeyboardInterrupt as error:
        done = len(store.slots) - sum(not writer.is_committed(slot) for slot in left)
        raise Interrupted(
            f"stopped: {done} of {len(store.slots)} shards are committed in {store.storage.url}; "
            "the same command goes on from there"
        ) from error
    finally:
        watch.end()


def _check_outputs(teacher: "Teacher", wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The wanted outputs in the order of a pass, the teacher's default ones where none is named."""
    spec = teacher.spec
    unknown = [name for name in wanted if spec.output(name) is None]
    if unknown:
        raise StoreError(f"{spec.name} has no output '{unknown[0]}'; it has: {spec.offer}")
    return spec.ordered(dict.fromkeys(wanted)) or spec.default_outputs


def _passes(
    store: EmbeddingStore, teacher: "Teacher", outputs: tuple[str, ...], config: "PrecomputeConfig", device: str
) -> list[Pass]:
    """Passes that were begun and cover a wanted output, and a new one for the outputs that none covers."""
    begun: list[Pass] = []
    if teacher.spec.teacher_id in store.teacher_ids:
        passes = TeacherView(store, teacher.spec.teacher_id).passes.values()
        begun = [plan for plan in passes if set(plan.outputs) & set(outputs)]
    covered = {name for plan in begun for name in plan.outputs}
    new = tuple(name for name in outputs if name not in covered)
    if not new:
        return begun
    threads = config.threads or usable_cpus()
    return [*begun, Pass(new, config.batch_size, threads, device)]


def _result(view: TeacherView, outputs: tuple[str, ...], *, computed: int, seconds: float) -> PrecomputeResult:
    bad: Counter[str] = Counter()
    for slot in view.store.slots:
        for output in outputs:
            commit = view.commit(slot, output)
            if commit is not None:
                bad.update(commit.bad[output])
    return PrecomputeResult(
        store=view.store.storage.url,
        teacher_id=view.teacher_id,
        outputs=tuple(outputs),
        rows=sum(slot.rows for slot in view.store.slots),
        computed=computed,
        bad=dict(bad),
        seconds=seconds,
        class_sets={output: tuple(set_names(view, output)) for output in outputs},
    )
