"""From names and settings to jobs: the teachers, the outputs of each, and the passes that compute them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedkd.errors import ConfigError, StoreError
from embedkd.precompute.batch_size import find_batch_size
from embedkd.precompute.encodings import encoded_specs
from embedkd.precompute.hardware import use_threads
from embedkd.precompute.rows import Job, image_outputs
from embedkd.rundir import usable_cpus
from embedkd.store import EmbeddingStore, Pass, PassWriter, TeacherView
from embedkd.teachers.base import preprocess_for

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
        spec: The teacher's, with the encodings that were asked for, and with the view, where it is one.
    """

    teacher: "Teacher"
    outputs: tuple[str, ...]
    spec: "TeacherSpec"

    @property
    def teacher_id(self) -> str:
        """Folder name in the store."""
        return self.spec.teacher_id


class _Models:
    """Loaded models, each compiled once and tried once for the batch that fits, however many views it is to see.

    Args:
        config: Settings of new passes.
        watch: Is told what fits.
    """

    def __init__(self, config: "PrecomputeConfig", watch: "Progress") -> None:
        self._config = config
        self._watch = watch
        self._compiled: dict[int, Teacher] = {}
        self._sizes: dict[tuple[int, tuple[str, ...]], int] = {}

    def ready(self, teacher: "Teacher", *, compiled: bool) -> "Teacher":
        """The teacher, compiled or as it is."""
        if not compiled:
            return teacher
        if id(teacher) not in self._compiled:
            self._compiled[id(teacher)] = teacher.compiled()
        return self._compiled[id(teacher)]

    def batch_size(self, teacher: "Teacher", outputs: tuple[str, ...], threads: int) -> int:
        """Of a new pass; outputs of images take the same room, however they are chosen for a view."""
        asked = (id(teacher), outputs)
        if asked not in self._sizes:
            use_threads(threads)
            runner = self.ready(teacher, compiled=self._config.compile)
            self._sizes[asked] = find_batch_size(runner, outputs, self._config.batch_size, self._watch)
        return self._sizes[asked]


def load_teachers(config: "PrecomputeConfig", device: str, watch: "Progress") -> list[Asked]:
    """Load every teacher that is named, once for itself and its views.

    Returns:
        Each teacher, and behind it its views.

    Raises:
        TeacherError: One cannot be loaded.
        ConfigError: Two names mean the same teacher.
        StoreError: An output that none of them has, or views where no output comes from images.
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
    asked = [Asked(*facts) for facts in zip(loaded.values(), chosen, specs, strict=True)]
    return [one for plain in asked for one in (plain, *_views(plain, config))]


def _views(plain: Asked, config: "PrecomputeConfig") -> "list[Asked]":
    """A teacher's stored views: teachers of their own, of the same model."""
    if not config.views:
        return []
    outputs = image_outputs(plain.outputs)
    if not outputs:
        raise StoreError(
            f"views are of images, and {plain.spec.name} is asked for {', '.join(plain.outputs)}; leave out --views"
        )
    preprocess_for(plain.teacher, config.view_specs[0])  # says now, and not in a decode worker, that it cannot
    return [replace(plain, outputs=outputs, spec=replace(plain.spec, view=view)) for view in config.view_specs]


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
    models = _Models(config, watch)
    for one in asked:
        begun = _begun(store, one)
        covered = {name for plan in begun for name in plan.outputs}
        wanted = [replace(plan, batch_size=config.batch_size, compiled=config.compile) for plan in begun]
        new = tuple(name for name in one.outputs if name not in covered)
        if new:
            threads = config.threads or usable_cpus()
            size = models.batch_size(one.teacher, new, threads)
            wanted.append(Pass(new, size, threads, device, compiled=config.compile))
        made = [_job(store, one, plan, models, watch) for plan in wanted]
        jobs += [job for job in made if job is not None]
    return jobs


def _begun(store: EmbeddingStore, one: Asked) -> list[Pass]:
    if one.teacher_id not in store.teacher_ids:
        return []
    passes = TeacherView(store, one.teacher_id).passes.values()
    return [plan for plan in passes if set(plan.outputs) & set(one.outputs)]


def _job(store: EmbeddingStore, one: Asked, wanted: Pass, models: _Models, watch: "Progress") -> Job | None:
    """The job of a pass; None where every slot has its commit. What the pass recorded when it was created wins."""
    writer = PassWriter(store, one.spec, wanted)
    if all(writer.is_committed(slot) for slot in store.slots):
        return None
    kept = writer.plan
    if (kept.batch_size, kept.compiled) != (wanted.batch_size, wanted.compiled):
        how = "compiled" if kept.compiled else "not compiled"
        watch.line(
            f"the pass of {', '.join(kept.outputs)} of {one.spec.title} was begun with batches of "
            f"{kept.batch_size}, {how}, and goes on so: its rows depend on it"
        )
    return Job(models.ready(one.teacher, compiled=kept.compiled), writer)
