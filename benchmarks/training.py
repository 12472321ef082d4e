"""What distillation from stored targets costs, beside plain supervised training and beside the teacher in the loop.

    python -m benchmarks.training [--rounds 8] [--teachers ViT-L-32 ViT-L-16] [--device cuda] [--json FILE]

All variants train the same student on the same images with the same batches, each in a process of its own that runs
only while the others wait: supervised on bare shards, class means (clip-embed-kd) and sample rows (clip-teacher-kd)
joined from a store, and with `--online-teacher` the sample rows said by the teacher in every step. A measure is end to
end: reading, decoding, joining, augmenting, the step. In a round every variant takes its turn, so that ratios are of
neighbours in time; the teachers in the loop take part in the first rounds only, since a step of theirs takes a minute
on two cores. The setting is the paper's: student vit-base at 32 px, batch 64, teachers of full size. Their weights are
drawn, and so are the rows in the stores: neither changes the cost.

Memory is the peak of the whole process until the end of its last step, and net of what was in use before the run was
planned, when all but a teacher's libraries had been imported: resident pages on a CPU, torch's allocations on CUDA. On
a CPU it depends on how the allocator's heap happens to be cut up: one and the same run takes up to 9 % more or less. So
it is the median over several processes of all variants without a teacher in the loop.
On a machine that does other things too, look at the processor time beside the wall time.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.measure import finish, summary

DATA = "data:clipart"
SUPERVISED, MEANS, ROWS = "supervised", "stored class means", "stored sample rows"
STEP_GOAL, MEMORY_GOAL = 1.05, 1.03
ONLINE_GOALS = {"ViT-L-32": 15.0, "ViT-L-16": 50.0}
_MB = 1e6


@dataclass(frozen=True)
class Variant:
    """One way to train the student.

    Attributes:
        name: For people.
        values: Of its config.
        steps: In one measure.
        rounds: In how many rounds it takes part.
    """

    name: str
    values: Mapping[str, Any]
    steps: int
    rounds: int


@dataclass(frozen=True)
class Steps:
    """Seconds a step of one measure.

    Attributes:
        wall_s: Of the clock.
        cpu_s: Of the process, on all cores.
    """

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class End:
    """What a variant tells at its end.

    Attributes:
        memory: Kind, start_bytes and peak_bytes.
        parameters: Of the student.
        multiply_adds: Of the student, for one image.
    """

    memory: Mapping[str, Any]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class TeacherSize:
    """How large a teacher is.

    Attributes:
        parameters: How many it has.
        multiply_adds: For one image.
    """

    parameters: int
    multiply_adds: int


def serve(variant: Variant, pipe: Connection) -> None:
    """In a process of its own: build the run, then do as many steps as asked, until asked for 0."""
    import torch

    from embedkd.allocator import tune_allocator
    from embedkd.config import load_config
    from embedkd.training.memory import PeakMemory
    from embedkd.training.plan import Plan

    tune_allocator()  # as a teacher in the loop does it: all sides alike
    config = load_config(values=dict(variant.values))
    memory = PeakMemory(torch.device(config.train.device))
    plan = Plan.of(config)
    live = None
    if config.train.online_teacher:
        from embedkd.online import OnlineTeachers

        live = OnlineTeachers(plan.data.train.targets, plan.device)
    learner, card = plan.build(live)
    steps = plan.division.by_step(plan.training_batches(card, 0, live), 0)
    pipe.send(None)
    while number := pipe.recv():
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(number):
            learner.gradients(*next(steps))  # its values are read from the device, so it is over when it returns
            learner.update()
        if plan.device.type == "cuda":
            torch.cuda.synchronize(plan.device)
        pipe.send(Steps((time.perf_counter() - wall) / number, (time.process_time() - cpu) / number))
    pipe.send(End(asdict(memory.read()), card.parameters, card.multiply_adds))


class Runner:
    """A variant in its process."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.found: list[Steps] = []
        self._pipe, theirs = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=serve, args=(variant, theirs))
        self._process.start()
        theirs.close()  # or a death over there would not be seen here

    def ready(self) -> None:
        """Wait until it is built, and take steps that are not counted: in the first few, memory is new to it."""
        began = time.perf_counter()
        self._pipe.recv()
        self._ask(1 if self.variant.steps == 1 else 2 * self.variant.steps)
        print(f"  {self.variant.name}: built and warm after {time.perf_counter() - began:.0f} s", flush=True)

    def measure(self) -> None:
        """Steps of one round."""
        self.found.append(self._ask(self.variant.steps))

    def end(self) -> End:
        """End it, and ask what it took."""
        self._pipe.send(0)
        told: End = self._pipe.recv()
        return told

    def close(self) -> None:
        """Let the process go, whatever it waits for."""
        self._pipe.close()
        self._process.join()

    def _ask(self, steps: int) -> Steps:
        self._pipe.send(steps)
        told: Steps = self._pipe.recv()
        return told


def end_of(variant: Variant) -> End:
    """What one more process tells, after as many steps as the others took uncounted."""
    runner = Runner(variant)
    try:
        runner.ready()
        return runner.end()
    finally:
        runner.close()


def write_store(folder: Path, teacher: str, device: str, pipe: Connection) -> None:
    """In a process of its own: a store of drawn rows that says it is of that teacher; sends the teacher's size."""
    import numpy as np
    import torch

    from embedkd.records import DecodePolicy, RowStatus, key_hash
    from embedkd.seeding import generator
    from embedkd.sources.fields import label
    from embedkd.sources.reader import ShardStream
    from embedkd.sources.roots import ShardSource, open_root
    from embedkd.sources.shards import index_shards, list_data
    from embedkd.storage import LocalStorage
    from embedkd.store import Pass, PassWriter, SlotRows, average, create_store, remembered_root, write_class_set
    from embedkd.students.cost import multiply_adds
    from embedkd.teachers import LoadOptions, load_teacher

    loaded = load_teacher(f"vit:{teacher}", LoadOptions(device, random_seed=0))  # it has the precision of the device
    listing, storage = list_data(DATA), LocalStorage(folder)
    root = remembered_root(listing.root, storage.url)
    store = create_store(storage, index_shards(listing), root=root, classes=listing.classes, policy=DecodePolicy())
    width = next(output.dim for output in loaded.spec.outputs if output.name == "cls")
    writer = PassWriter(store, loaded.spec, Pass(("cls",), 64, 1, "drawn"))
    for slot in store.slots:
        with ShardStream(ShardSource(open_root(listing.root), slot.shard.url)) as stream:
            samples = [sample for sample in stream if slot.start <= sample.ordinal < slot.start + slot.rows]
        made = SlotRows(
            keys=np.array([key_hash(sample.key) for sample in samples], np.uint64),
            labels=np.array([label(sample.fields, sample.key) for sample in samples], np.int32),
            places=np.array([sample.place for sample in samples], np.uint64),
            outputs={"cls": generator(0, "rows", slot.index).normal(size=(slot.rows, width)).astype(np.float32)},
            status={"cls": np.full(slot.rows, RowStatus.OK, np.uint8)},
            source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
        )
        writer.write(slot, made, {})
    view = store.teacher()
    write_class_set(view, "cls", average(view, "cls", samples_per_class=100, seed=0))
    assert loaded.backbone is not None
    module = loaded.backbone.module
    image = torch.zeros(1, 3, *loaded.spec.preprocess.crop_px, device=device)
    pipe.send(TeacherSize(sum(one.numel() for one in module.parameters()), multiply_adds(module, image)))


def make_stores(folder: Path, teachers: Sequence[str], device: str) -> dict[str, tuple[Path, TeacherSize]]:
    """Name of each teacher to its store and its size."""
    context, made = get_context("spawn"), {}
    for teacher in teachers:  # one after the other: each draws 1.2 GB of weights
        pipe, theirs = context.Pipe()
        process = context.Process(target=write_store, args=(folder / f"{teacher}.zarr", teacher, device, theirs))
        process.start()
        theirs.close()
        made[teacher] = (folder / f"{teacher}.zarr", pipe.recv())
        process.join()
    return made


def variants(options: argparse.Namespace, stores: Mapping[str, tuple[Path, TeacherSize]], out: Path) -> list[Variant]:
    """What is compared."""
    common = {
        "student.name": options.student,
        "student.image_px": options.image_px,
        "train.global_batch_size": options.batch_size,
        "train.epochs": 1000,  # steps are asked for, not epochs
        "train.device": options.device,
        "train.precision": options.precision,
        "train.workers": 0,  # a worker would read ahead while the others take their turns, unseen
        "train.out": str(out / "run"),  # nothing is written there
        "train.allow_view_mismatch": True,
        "train.allow_random_teacher": True,
    }
    first = {"train.targets": [str(next(iter(stores.values()))[0])]}
    make = partial(Variant, steps=options.steps, rounds=options.rounds)
    found = [
        make(SUPERVISED, common | {"data.shards": DATA, "losses": {"cross_entropy": 1.0}}),
        make(MEANS, common | first | {"recipe": "clip-embed-kd"}),
        make(ROWS, common | first | {"recipe": "clip-teacher-kd"}),
    ]
    for teacher, (store, _) in stores.items():
        online = {"train.targets": [str(store)], "recipe": "clip-teacher-kd", "train.online_teacher": True}
        found.append(Variant(f"online {teacher}", common | online, 1, options.online_rounds))
    return found


@dataclass
class Table:
    """What was measured, and how it is shown."""

    runners: list[Runner]
    ends: Mapping[str, Sequence[End]]
    teachers: Mapping[str, TeacherSize]

    def ratio(self, over: str, under: str, value: Callable[[Steps], float]) -> dict[str, float]:
        """Of two variants, round by round."""
        found = {runner.variant.name: runner.found for runner in self.runners}
        return summary([value(a) / value(b) for a, b in zip(found[over], found[under], strict=False)])

    def memory_ratio(self, over: str, under: str, *, net: bool) -> float:
        """Of two variants' peaks."""
        return statistics.median(self._bytes(over, net=net)) / statistics.median(self._bytes(under, net=net))

    def _bytes(self, name: str, *, net: bool) -> list[float]:
        """Peaks of a variant's processes."""
        found = [end.memory for end in self.ends[name]]
        return [float(memory["peak_bytes"] - (memory["start_bytes"] if net else 0)) for memory in found]

    def show(self) -> dict[str, Any]:
        """Print all of it; the same as facts."""
        print(f"\n{'variant':<20} {'s a step':>9} {'cpu s':>7} {'peak MB':>9} {'net MB':>8}  (range over processes)")
        for runner in self.runners:
            name = runner.variant.name
            wall, cpu = (statistics.median(getattr(s, key) for s in runner.found) for key in ("wall_s", "cpu_s"))
            peaks, nets = ([value / _MB for value in self._bytes(name, net=net)] for net in (False, True))
            middle = f"{statistics.median(peaks):9.0f} {statistics.median(nets):8.0f}"
            print(f"{name:<20} {wall:9.3f} {cpu:7.3f} {middle}  ({min(nets):.0f} to {max(nets):.0f})")
        facts: dict[str, Any] = {"stored": {}, "online": {}}
        print("\nagainst supervised (medians of rounds, and their range)")
        for name in (MEANS, ROWS):
            facts["stored"][name] = self._stored(name)
        print(f"\nonline against {ROWS}")
        for teacher, size in self.teachers.items():
            facts["online"][teacher] = self._online(teacher, size)
        return facts

    def _stored(self, name: str) -> dict[str, Any]:
        wall, cpu = (self.ratio(name, SUPERVISED, value) for value in (_wall, _cpu))
        peak, net = (self.memory_ratio(name, SUPERVISED, net=net) for net in (False, True))
        print(f"  {name:<18} step {_shown(wall)}, goal <= {STEP_GOAL}: {_met(wall['median'] <= STEP_GOAL)}")
        print(f"  {'':<18} processor time {_shown(cpu)}")
        met = _met(max(peak, net) <= MEMORY_GOAL)
        print(f"  {'':<18} peak memory {peak:.3f}, net of imports {net:.3f}, goal <= {MEMORY_GOAL}: {met}")
        return {"step": wall, "cpu": cpu, "peak": peak, "net": net}

    def _online(self, teacher: str, size: TeacherSize) -> dict[str, Any]:
        name, goal = f"online {teacher}", ONLINE_GOALS.get(teacher)
        wall, cpu = (self.ratio(name, ROWS, value) for value in (_wall, _cpu))
        peak, net = (self.memory_ratio(name, ROWS, net=net) for net in (False, True))
        student = self.ends[ROWS][0]
        against = "" if goal is None else f", goal >= {goal:g}: {_met(wall['median'] >= goal)}"
        print(f"  {teacher:<10} step {_shown(wall, 1)} times{against}; processor time {_shown(cpu, 1)}")
        print(f"  {'':<10} peak memory {peak:.2f} times, net of imports {net:.2f} times")
        ratio = size.parameters / student.parameters
        sizes = f"{size.parameters / 1e6:.1f} M parameters to {student.parameters / 1e6:.2f} M"
        print(f"  {'':<10} parameter bytes, which is what the paper calls memory: {ratio:.0f} times ({sizes})")
        # A backward pass costs twice the forward one, and the teacher has none.
        work = (size.multiply_adds + 3 * student.multiply_adds) / (3 * student.multiply_adds)
        costs = f"{size.multiply_adds / 1e9:.1f} G multiply-adds an image to 3 x {student.multiply_adds / 1e9:.2f} G"
        print(f"  {'':<10} arithmetic of a step: {work:.1f} times ({costs})")
        return {"step": wall, "cpu": cpu, "peak": peak, "net": net, "parameter_ratio": ratio, "arithmetic": work}


def _wall(steps: Steps) -> float:
    return steps.wall_s


def _cpu(steps: Steps) -> float:
    return steps.cpu_s


def _shown(ratio: Mapping[str, float], digits: int = 3) -> str:
    median, low, high = (f"{ratio[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def _met(fits: bool) -> str:
    return "met" if fits else "missed"


def turns(runners: Sequence[Runner]) -> Iterator[Runner]:
    """Whose turn it is, round by round; each round begins with another one."""
    for number in range(max(runner.variant.rounds for runner in runners)):
        first = number % len(runners)
        yield from (one for one in (*runners[first:], *runners[:first]) if number < one.variant.rounds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="vit-base")
    parser.add_argument("--image-px", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--teachers", nargs="+", default=["ViT-L-32", "ViT-L-16"], help="of the vit: family")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="in a measure, of all but the teachers in the loop")
    parser.add_argument("--online-rounds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=5, help="whose memory is measured, of each variant")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", help="of the students; teachers have that of their device")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or processes that wait for their turn would spin
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        stores = make_stores(Path(temporary), options.teachers, options.device)
        print(f"stores of drawn rows made after {time.perf_counter() - began:.0f} s", flush=True)
        runners = [Runner(variant) for variant in variants(options, stores, Path(temporary))]
        try:
            for runner in runners:
                runner.ready()
            for runner in turns(runners):
                runner.measure()
            ends = {runner.variant.name: [runner.end()] for runner in runners}
        finally:
            for runner in runners:
                runner.close()
        for runner in runners:
            if not runner.variant.values.get("train.online_teacher"):
                ends[runner.variant.name] += [end_of(runner.variant) for _ in range(options.processes - 1)]
    table = Table(runners, ends, {teacher: size for teacher, (_, size) in stores.items()})
    facts = table.show()
    print(f"\n{time.perf_counter() - began:.0f} s in all; {len(runners[0].found)} rounds of {options.steps} steps")
    measured = {r.variant.name: [asdict(steps) for steps in r.found] for r in runners}
    finish(
        "training",
        {**facts, "steps": measured, "ends": {name: [asdict(one) for one in found] for name, found in ends.items()}},
        options.json,
    )


if __name__ == "__main__":
    main()
