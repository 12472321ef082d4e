"""What `embedkd precompute` does, from names to a finished store.

Heavy imports happen after the question whether there is anything left to do, so a finished store answers at once.
"""

import time
from collections import Counter
from typing import TYPE_CHECKING

from embedkd.errors import Interrupted, StoreError, TeacherError
from embedkd.precompute.averages import add_class_set
from embedkd.precompute.hardware import device_model, resolve_device, resolve_workers
from embedkd.precompute.jobs import Asked, load_teachers, make_jobs
from embedkd.precompute.opening import Opening
from embedkd.precompute.process import ShardProcessor
from embedkd.precompute.results import PrecomputeResult, describe_teacher, find_finished, make_result
from embedkd.precompute.rounds import rounds
from embedkd.precompute.rows import TEXT, Job
from embedkd.progress import Progress, Silent
from embedkd.store import EmbeddingStore, TeacherView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedkd.config import Config


def precompute(config: "Config", progress: Progress | None = None) -> PrecomputeResult:
    """Run teachers over shards and write what they say of images and views into a store, then the default class means.

    Args:
        config: Its sections ``data``, ``precompute`` and ``average``.
        progress: Who watches.

    Raises:
        SourceError: A shard or a label cannot be used.
        TeacherError: A teacher cannot be loaded or run.
        StoreError: The store belongs to other shards, or another writer disagrees.
        Interrupted: Ctrl-C; what was committed stays, and the same command goes on.
    """
    finished = find_finished(config)
    if finished is not None:
        return finished
    watch, wanted = progress or Silent(), config.precompute
    opening = Opening.of(config, watch)
    _check_prompts(wanted.class_prompts, opening)

    from embedkd.allocator import tune_allocator

    tune_allocator()
    device = resolve_device(wanted.device)
    asked = load_teachers(wanted, device, watch)
    readers = [one for one in asked if one.teacher.tokenize is not None]
    if wanted.class_prompts is not None and not readers:
        raise TeacherError(f"no teacher here reads text ({', '.join(wanted.teachers)}); leave out --class-prompts")
    store = opening.store(config)  # only now: a teacher that cannot be had leaves nothing behind
    jobs = make_jobs(store, asked, wanted, device_model(device), watch)
    started = time.perf_counter()

    def processor(some: "Sequence[Job]") -> ShardProcessor:
        return ShardProcessor(
            store,
            opening.listing.root,
            some,
            decode_workers=resolve_workers(wanted.decode_workers, device),
            max_bad_fraction=wanted.max_bad_fraction,
            progress=watch,
            pin_memory=device.startswith("cuda"),
        )

    computed = _run(processor, store, jobs, watch)
    seconds = time.perf_counter() - started
    return _complete(store, asked, config, computed, seconds=seconds, watch=watch)


def _check_prompts(prompts: str | None, opening: Opening) -> None:
    """Refuse, before anything is computed, what would fail behind the passes.

    Raises:
        ConfigError: The templates cannot be had.
        StoreError: The data names no classes.
    """
    if prompts is None:
        return
    from embedkd.teachers.prompts import read_prompts

    read_prompts(prompts)
    if opening.listing.classes is None:
        raise StoreError(f"{opening.listing.root} names no classes to put into prompts; pack the data with names")


def _run(
    processor: "Callable[[Sequence[Job]], ShardProcessor]",
    store: EmbeddingStore,
    jobs: "Sequence[Job]",
    watch: Progress,
) -> "Counter[str]":
    """Samples computed, by teacher; those of a view are its own."""
    computed: Counter[str] = Counter()
    left = {slot: sum(not job.writer.is_committed(slot) for job in jobs) for slot in store.slots}
    unit = "images" if len(jobs) == 1 and jobs[0].image_outputs else "rows"
    watch.begin("precompute", sum(slot.rows * count for slot, count in left.items()), unit)
    try:
        for some in rounds(jobs, max(slot.rows for slot in store.slots)):
            computed += processor(some).run([slot for slot, count in left.items() if count]).computed
    except KeyboardInterrupt as error:
        done = sum(all(job.writer.is_committed(slot) for job in jobs) for slot in store.slots)
        raise Interrupted(
            f"stopped: {done} of {len(store.slots)} shards are committed in {store.storage.url}; "
            "the same command goes on from there"
        ) from error
    finally:
        watch.end()
    return computed


def _complete(
    store: EmbeddingStore,
    asked: "Sequence[Asked]",
    config: "Config",
    computed: "Counter[str]",
    *,
    seconds: float,
    watch: Progress,
) -> PrecomputeResult:
    """Class means and class texts, and the result."""
    entries = []
    for one in asked:
        if one.spec.view is not None:  # class means are of whole images
            continue
        views = [other.teacher_id for other in asked if other.spec.view and other.spec.plain == one.spec]
        view = TeacherView(store, one.teacher_id)
        for output in one.outputs:
            add_class_set(view, output, config.average, watch)
        if config.precompute.class_prompts is not None and view.spec.output(TEXT) is not None:
            from embedkd.precompute.class_texts import add_class_texts

            add_class_texts(view, one.teacher, config.precompute.class_prompts, watch)
        rows = sum(computed[name] for name in (one.teacher_id, *views))
        entries.append(describe_teacher(view, one.outputs, views=len(views), computed=rows))
    return make_result(store, tuple(entries), seconds=seconds)
