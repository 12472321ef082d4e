"""From names and settings to jobs: the teachers, the outputs of each, and the passes that compute them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError, StoreError
from embedkd.precompute.batch_size import find_batch_size
from embedkd.precompute.encodings import encoded_specs
from embedkd.precompute.hardware import use_threads
from embedkd.precompute.rows import Job
from embedkd.rundir import usable_cpus
from embedkd.store import EmbeddingStore, Pass, PassWriter, TeacherView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.config import PrecomputeConfig
    from embedkd.progress import Progress
    from embedkd.records import TeacherSpec
    from embedkd.teachers.base import Teacher


@dataclass(frozen=True)
class Asked:
    """A teacher, and what it was asked for.

    Attributes:
        teacher: The teacher.
        outputs: That it shall compute.
        spec: The teacher's, with the encodings that were asked for.
    """

    teacher: "Teacher"
    outputs: tuple[str, ...]
    spec: "TeacherSpec"

    @property
    def teacher_id(self) -> str:
        """Folder name in the store."""
        return self.spec.teacher_id


def load_teachers(config: "PrecomputeConfig", device: str, watch: "Progress") -> list[Asked]:
    """Load every teacher that is named.

    Raises:
        TeacherError: One cannot be loaded.
        ConfigError: Two names mean the same teacher.
        StoreError: An output that none of them has.
        FormatError: An output cannot have the encoding that was asked for.
    """
    from embedkd.teachers import LoadOptions, load_teacher

    seed = config.seed if config.weights == "random" else None
    options = LoadOptions(device, config.precision, seed, config.trust_code)
    loaded: dict[str, Teacher] = {}
    for name in config.teachers:
        watch.line(f"loading {name}" + ("" if seed is None else f" with random weights (seed {seed}), for dry runs"))
        teacher = load_teacher(name, options)
        if teacher.spec.teacher_id in loaded:
            raise ConfigError(f"'{name}' is the same teacher as one before it ({teacher.spec.name}); name it once")
        loaded[teacher.spec.teacher_id] = teacher
    specs = encoded_specs([teacher.spec for teacher in loaded.values()], config.encoding, watch)
    chosen = choose_outputs(specs, config.outputs)
    return [Asked(*facts) for facts in zip(loaded.values(), chosen, specs, strict=True)]


def choose_outputs(specs: "Sequence[TeacherSpec]", wanted: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The wanted outputs that each teacher has, in the order of a pass; its default ones where none is named.

    Raises:
        StoreError: No teacher has one of them, or a teacher has none of them.
    """
    if not wanted:
        return [spec.default_outputs for spec in specs]
    for name in wanted:
        if all(spec.output(name) is None for spec in specs):
            offers = "; ".join(f"{spec.name} has: {spec.offer}" for spec in specs)
            offer = f"{specs[0].name} has no output '{name}'; it has: {specs[0].offer}"
            raise StoreError(offer if len(specs) == 1 else f"no teacher has output '{name}'; {offers}")
    chosen = [spec.ordered({name: None for name in wanted if spec.output(name) is not None}) for spec in specs]
    for spec, outputs in zip(specs, chosen, strict=True):
        if not outputs:
            raise StoreError(f"{spec.name} has none of the outputs {', '.join(wanted)}; it has: {spec.offer}")
    return chosen


def make_jobs(
    store: EmbeddingStore, asked: "Sequence[Asked]", config: "PrecomputeConfig", device: str, watch: "Progress"
) -> list[Job]:
    """The passes that have something left to do: those begun that cover a wanted output, and new ones for the rest.

    Args:
        store: The store.
        asked: Teachers and outputs.
        config: Settings of new passes.
        device: Model of the CPU or GPU.
        watch: Is told where a recorded setting wins.

    Raises:
        TeacherError: A teacher has no memory for a single image.
    """
    jobs: list[Job] = []
    for one in asked:
        begun = _begun(store, one)
        covered = {name for plan in begun for name in plan.outputs}
        wanted = [replace(plan, batch_size=config.batch_size, compiled=config.compile) for plan in begun]
        new = tuple(name for name in one.outputs if name not in covered)
        if new:
            wanted.append(_new_pass(one.teacher, new, config, device, watch))
        made = [_job(store, one, plan, watch) for plan in wanted]
        jobs += [job for job in made if job is not None]
    return jobs


def _begun(store: EmbeddingStore, one: Asked) -> list[Pass]:
    if one.teacher_id not in store.teacher_ids:
        return []
    passes = TeacherView(store, one.teacher_id).passes.values()
    return [plan for plan in passes if set(plan.outputs) & set(one.outputs)]


def _new_pass(
    teacher: "Teacher", outputs: tuple[str, ...], config: "PrecomputeConfig", device: str, watch: "Progress"
) -> Pass:
    threads = config.threads or usable_cpus()
    use_threads(threads)
    runner = teacher.compiled() if config.compile else teacher
    size = find_batch_size(runner, outputs, config.batch_size, watch)
    return Pass(outputs, size, threads, device, compiled=config.compile)


def _job(store: EmbeddingStore, one: Asked, wanted: Pass, watch: "Progress") -> Job | None:
    """The job of a pass; None where every slot has its commit. What the pass recorded when it was created wins."""
    writer = PassWriter(store, one.spec, wanted)
    if all(writer.is_committed(slot) for slot in store.slots):
        return None
    kept = writer.plan
    if (kept.batch_size, kept.compiled) != (wanted.batch_size, wanted.compiled):
        how = "compiled" if kept.compiled else "not compiled"
        watch.line(
            f"the pass of {', '.join(kept.outputs)} of {one.spec.name} was begun with batches of "
            f"{kept.batch_size}, {how}, and goes on so: its rows depend on it"
        )
    return Job(one.teacher.compiled() if kept.compiled else one.teacher, writer)
