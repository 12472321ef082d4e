"""Reading and writing one slot, beside zarr-python on the same arrays with the same codecs.

    python -m benchmarks.store [--rounds 5] [--slots 6] [--folder FOLDER] [--plain-allocator] [--json FILE]

Writing. "embedkd" is `PassWriter.write` of float32 rows: check, quantise, measure the error, encode all arrays, BLAKE2b
of every object, then every object and the commit put durably (fsync of the file and of its folder). "zarr" is
``__setitem__`` of the same arrays, of rows that have the stored type already, or of float32 rows, which zarr converts;
zarr measures, hashes and syncs nothing; "... and synced" adds the calls that make it as durable. The lines below
"embedkd" are parts of it, for the array of rows alone.

Reading. "embedkd" is `TeacherView.read`: rows, status, keys, labels and places, every object compared with its commit
(length, trailer, crc32c), and all of them checked. "zarr" is ``array[first:last]`` of the rows, where only the codec
compares a crc32c; or of all these arrays.

They take turns slot by slot, in another order every round, in one process, with all files in the page cache. What was
written is removed after every round. A ratio is zarr's time over ours, for one slot in one round: medians, and the
range of the rounds. CPU time, of all threads and of the kernel for them, does not wait for disks and neighbours. Unless
--plain-allocator is given, glibc keeps freed memory, as it does in `embedkd precompute`: else page faults decide much.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks.measure import finish
from embedkd.allocator import tune_allocator
from embedkd.records import DecodePolicy, OutputSpec, Preprocess, Shard, TeacherSpec, blake2b_hex
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, SlotRows, create_store, open_store
from embedkd.store.encoding import encode_chunk
from embedkd.store.quantising import encode
from embedkd.store.schema import ArraySchema

OUTPUT = "cls"
SAMPLE_BYTES = 4_096  # in the tars that the places speak of; nothing reads them

Measures = Mapping[str, Callable[[int], object]]  # name to what is done with one slot
Times = dict[str, NDArray[np.float64]]  # name to seconds [rounds, slots, 2]: by the clock, and of CPUs


@dataclass(frozen=True)
class Case:
    """Rows of a slot, the slot's capacity, the rows' width and encoding."""

    rows: int
    capacity: int
    dim: int
    encoding: str

    def __str__(self) -> str:
        return f"{self.encoding}, {self.dim} wide, {self.rows:,} rows in slots of {self.capacity:,}"


CASES = (
    Case(4_096, 4_096, 768, "float16"),
    Case(10_000, 16_384, 768, "float16"),
    Case(4_096, 4_096, 1_024, "float16"),
    Case(4_096, 4_096, 768, "bfloat16"),
    Case(4_096, 4_096, 768, "int8"),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=6)
    parser.add_argument("--folder", type=Path, help="where the stores are made; by default the system's place for that")
    parser.add_argument("--plain-allocator", action="store_true", help="leave glibc's thresholds as they are")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.plain_allocator:
        tune_allocator()
    facts: dict[str, Any] = {}
    for case in CASES:
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            bench = Bench(case, Path(temporary), options.slots)
            print(f"\n{case}")
            for name, measures in (("write", bench.writers()), ("read", bench.readers())):
                found = bench.alternating(measures, options.rounds)
                show(name, found)
                facts[f"{name}: {case}"] = {measure: times.tolist() for measure, times in found.items()}
    print(f"\nload at the end: {os.getloadavg()[0]:.1f}")
    finish("store", facts, options.json)


class Bench:
    """One case in three stores of the same arrays: written by embedkd, by embedkd without fsync, and by zarr.

    Args:
        case: What to store.
        folder: Where.
        slots: Slots that a round takes.
    """

    def __init__(self, case: Case, folder: Path, slots: int) -> None:
        self._case = case
        self._folder = folder
        self._slots = slots
        self._rows = rows_of(case)
        self._writers = {name: self._create(name) for name in ("embedkd", "unsynced", "zarr")}
        self._store = open_store(folder / "embedkd")
        self._path = f"teachers/{spec_of(case).teacher_id}/{OUTPUT}"
        self._write("embedkd", 0)
        self._stored = {
            name: np.asarray(array[self._here(array, 0)])
            for name, array in zarr.open_group(folder / "embedkd", mode="r").members(None)
            if isinstance(array, zarr.Array) and name.startswith(("rows/", self._path))
        }

    def _create(self, name: str) -> PassWriter:
        shards = tuple(shard_of(number, self._case.rows) for number in range(self._slots))
        settings: dict[str, Any] = {"classes": None, "policy": DecodePolicy(), "capacity": self._case.capacity}
        store = create_store(LocalStorage(self._folder / name), shards, root="../data", **settings)
        return PassWriter(store, spec_of(self._case), Pass((OUTPUT,), 256, 1, "none"))

    def _write(self, store: str, slot: int) -> None:
        shard = shard_of(slot, self._case.rows)
        source = {"url": shard.url, "bytes": shard.size_bytes, "blake2b": shard.blake2b}
        self._writers[store].write(self._store.slots[slot], SlotRows(**self._rows, source=source), {})

    def writers(self) -> Measures:
        """Ways to write a slot; the first is what all are compared with."""
        stored, dtype = self._stored, self._stored[self._path].dtype
        arrays = {name: zarr.open_array(self._folder / "zarr" / name, mode="r+") for name in stored}
        schema = ArraySchema("rows", dtype.name, (1, self._case.dim), (self._case.capacity, self._case.dim))
        chunk, bare = encode_chunk(schema, stored[self._path]), LocalStorage(self._folder / "bare")
        output = OutputSpec(OUTPUT, self._case.dim, self._case.encoding)
        said, status = self._rows["outputs"][OUTPUT], self._rows["status"][OUTPUT]

        def unsynced(slot: int) -> None:
            with patch("os.fsync", lambda _: None):
                self._write("unsynced", slot)

        def assign(values: Mapping[str, NDArray[Any]]) -> Callable[[int], None]:
            def write(slot: int) -> None:
                for name, array in arrays.items():
                    array[self._here(array, slot)] = values[name]

            return write

        found: dict[str, Callable[[int], object]] = {
            "embedkd": lambda slot: self._write("embedkd", slot),
            "embedkd, no fsync": unsynced,
            "  quantise, measure": lambda _: encode(output, said, status),
            "  compress": lambda _: encode_chunk(schema, stored[self._path]),
            "  BLAKE2b": lambda _: blake2b_hex(chunk),
            "  put": lambda slot: bare.put_new(f"c/{slot}", chunk),
            "zarr, rows as stored": assign(stored),
        }
        if dtype.kind == "f":
            given = assign(stored | {self._path: self._rows["outputs"][OUTPUT]})
            found["zarr, float32 rows"] = given

            def synced(slot: int) -> None:
                given(slot)
                self._sync(slot)

            found["... and synced"] = synced
        return found

    def _sync(self, slot: int) -> None:
        """Make what zarr wrote of a slot as durable as what embedkd writes."""
        for name, values in self._stored.items():
            chunk = self._folder.joinpath("zarr", name, "c", str(slot), *("0" for _ in values.shape[1:]))
            for path in (chunk, *(chunk.parents[at] for at in range(values.ndim))):
                handle = os.open(path, os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)

    def readers(self) -> Measures:
        """Ways to read a slot; the first is what all are compared with."""
        self._clean()
        for slot in range(self._slots):
            self._write("embedkd", slot)
        view = open_store(self._folder / "embedkd").teacher()
        arrays = {name: zarr.open_array(self._folder / "embedkd" / name, mode="r") for name in self._stored}
        rows = arrays[self._path]
        return {
            "embedkd": lambda slot: view.read(slot, OUTPUT),
            "zarr, rows": lambda slot: rows[self._here(rows, slot)],
            "zarr, all arrays": lambda slot: [array[self._here(array, slot)] for array in arrays.values()],
        }

    def _here(self, array: zarr.Array[Any], slot: int) -> slice:
        """What belongs to a slot: rows, or the one row of scales of int8."""
        length = array.chunks[0]
        return slice(slot * length, slot * length + min(length, self._case.rows))

    def alternating(self, measures: Measures, rounds: int) -> Times:
        """Seconds of every measure, a slot and a round; one round more, the first, is thrown away."""
        found: Times = {name: np.zeros((rounds + 1, self._slots, 2)) for name in measures}
        names = list(measures)
        for at in range(rounds + 1):
            if "zarr, rows as stored" in measures:
                self._clean()
            names.append(names.pop(0))
            for slot in range(self._slots):
                for name in names:
                    started = np.array([time.perf_counter(), time.process_time()])
                    measures[name](slot)
                    found[name][at, slot] = np.array([time.perf_counter(), time.process_time()]) - started
        return {name: times[1:] for name, times in found.items()}

    def _clean(self) -> None:
        """Remove every chunk and every commit."""
        for path in [*self._folder.rglob("c"), *self._folder.rglob("commits")]:
            shutil.rmtree(path)


def show(what: str, found: Times) -> None:
    """Median times in milliseconds, and ratios with the range of the rounds."""
    ours = next(iter(found.values()))
    for name, times in found.items():
        clock, cpu = np.median(times, axis=(0, 1)) * 1e3
        line = f"  {what}: {name:<21} {clock:6.1f} ms, at best {times[..., 0].min() * 1e3:6.1f}, CPU {cpu:6.1f}"
        if times is not ours:
            rounds = np.median(times[..., 0] / ours[..., 0], axis=1)
            ratio = statistics.median(rounds.tolist())
            of_cpu = np.median(times[..., 1] / ours[..., 1])
            line += f"   / embedkd {ratio:.2f} ({rounds.min():.2f} to {rounds.max():.2f}), CPU {of_cpu:.2f}"
        print(line)


def shard_of(number: int, rows: int) -> Shard:
    """A tar that is not there."""
    return Shard(f"{number}.tar", "train", (rows + 2) * SAMPLE_BYTES, rows, blake2b_hex(b"%d" % number))


def spec_of(case: Case, output: str = OUTPUT) -> TeacherSpec:
    """A teacher that says random numbers."""
    return TeacherSpec(
        name="vit:ViT-L-32",
        model="drawn",
        weights_sha256="0" * 64,
        outputs=(OutputSpec(output, case.dim, case.encoding),),
        preprocess=Preprocess(224, (224, 224), "bicubic", (0.5,) * 3, (0.5,) * 3),
        normalised=False,
        precision="float32",
        source="a benchmark",
    )


def rows_of(case: Case) -> dict[str, Any]:
    """What a writer takes for one slot, its tar apart: normal rows, drawn keys and labels."""
    rng = np.random.default_rng(0)
    places = np.empty((case.rows, 3), np.uint64)
    places[:, 0], places[:, 1] = np.arange(case.rows) * SAMPLE_BYTES, SAMPLE_BYTES
    places[:, 2] = rng.integers(0, 1 << 32, case.rows)
    return {
        "keys": rng.integers(0, 1 << 63, case.rows, dtype=np.uint64),
        "labels": rng.integers(0, 1_000, case.rows, dtype=np.int32),
        "places": places,
        "outputs": {OUTPUT: rng.standard_normal((case.rows, case.dim), np.float32)},
        "status": {OUTPUT: np.ones(case.rows, np.uint8)},
    }


if __name__ == "__main__":
    main()
