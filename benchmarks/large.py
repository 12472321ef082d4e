"""A sealed store of 41,408 slots (LAION-400M in tars of 10,000): how long it takes to open, and with how much memory.

    python -m benchmarks.large [--slots 41408] [--folder FOLDER] [--rounds 5] [--json FILE]

The store is sparse: the slots that the first batch of an epoch reads are real, with real tars; of the others there is
what a reader sees before it reads rows, which is their line in the manifest and their place in the sealed index. Every
measurement runs in a process of its own. Memory is the peak of the whole process, the interpreter included.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import finish, summary
from embedkd.records import DecodePolicy, OutputSpec, Preprocess, Shard, TeacherSpec, blake2b_hex, key_hash
from embedkd.sources.index import index_shard
from embedkd.sources.roots import ShardSource
from embedkd.storage import LocalStorage
from embedkd.store import EmbeddingStore, Pass, PassWriter, SlotRows, create_store, open_store, seal_store
from embedkd.store.measured import BINS, ErrorColumns
from embedkd.store.sealed import ObjectColumns, SealedIndex, sources_digest
from embedkd.store.sealing import write_seal

ROWS, DIM, BATCH = 9_660, 768, 256
SPEC = TeacherSpec(
    name="vit:ViT-L-32",
    model="sparse",
    weights_sha256="0" * 64,
    outputs=(OutputSpec("cls", DIM),),
    preprocess=Preprocess(224, (224, 224), "bicubic", (0.5,) * 3, (0.5,) * 3),
    normalised=False,
    precision="float32",
    source="a benchmark",
)


def main() -> None:
    """Make the store, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=41_408)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=sorted(CHILDREN))
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child](options.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "store.zarr").exists():
            started = time.perf_counter()
            make(folder, options.slots)
            print(f"made in {time.perf_counter() - started:.1f} s")
        facts: dict[str, Any] = {"slots": options.slots, "bytes": _sizes(folder / "store.zarr")}
        print(f"  documents: {facts['bytes']}")
        for name in CHILDREN:
            facts[name] = _measured(name, folder, options.rounds)
    finish("large", facts, options.json)


def make(folder: Path, slots: int) -> None:
    """The sparse store and the tars of its real slots."""
    from embedkd.join.order import EpochOrder, batch_positions  # here: it brings torch, which readers need not have

    counts = (ROWS,) * slots
    positions, _ = batch_positions(slots * ROWS, 0, BATCH, 0, 1)
    real = sorted({int(slot) for slot in EpochOrder(counts, 0, 0, True).at(positions)[0]})
    shards = [Shard(f"{i:05d}.tar", "train", 270_000_000 + i, ROWS, blake2b_hex(b"%d" % i)) for i in range(slots)]
    for number in real:
        shards[number] = _tar(folder / "data", shards[number])
    store = create_store(
        LocalStorage(folder / "store.zarr"), tuple(shards), root="../data", classes=None, policy=DecodePolicy()
    )
    writer = PassWriter(store, SPEC, Pass(("cls",), 256, 1, "none"))
    for number in real:
        writer.write(store.slots[number], _rows(store, number, folder / "data"), {})
    seal_store(store.storage)
    _complete(open_store(store.storage))


def _tar(folder: Path, shard: Shard) -> Shard:
    folder.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(picture, "PNG")
    with tarfile.open(folder / shard.url, "w") as tar:
        for row in range(shard.rows):
            member = tarfile.TarInfo(f"{shard.url[:-4]}{row:05d}.png")
            member.size = len(picture.getvalue())
            tar.addfile(member, io.BytesIO(picture.getvalue()))
    data = (folder / shard.url).read_bytes()
    return replace(shard, size_bytes=len(data), blake2b=blake2b_hex(data))


def _rows(store: EmbeddingStore, number: int, data: Path) -> SlotRows:
    slot = store.slots[number]
    rng = np.random.default_rng(number)
    samples = index_shard(ShardSource(LocalStorage(data), slot.shard.url)).samples
    return SlotRows(
        keys=np.array([key_hash(sample.key) for sample in samples], np.uint64),
        labels=np.full(slot.rows, -1, np.int32),
        places=np.array([sample.place for sample in samples], np.uint64),
        outputs={"cls": rng.normal(size=(slot.rows, DIM)).astype(np.float32)},
        status={"cls": np.ones(slot.rows, np.uint8)},
        source={"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
    )


def _complete(store: EmbeddingStore) -> None:
    """Seal once more, with a place in the index for every slot; what it says of objects that are not there is drawn."""
    view = store.teacher()
    ((pass_id, _),) = view.passes.items()
    real = view.log.index(pass_id)
    assert real is not None
    rest = [slot for slot in store.slots if real.place(slot.index) is None]
    n, rng = len(rest), np.random.default_rng(0)
    drawn = SealedIndex(
        pass_digest=real.pass_digest,
        fingerprint=real.fingerprint,
        decode=real.decode,
        sources=sources_digest(rest),
        slots=np.array([slot.index for slot in rest], np.uint32),
        commits=rng.integers(0, 256, (n, 32), np.uint8),
        keys=rng.integers(0, 256, (n, 32), np.uint8),
        labelled=np.zeros(n, np.uint32),
        max_label=np.full(n, -1, np.int32),
        ok={"cls": np.full(n, ROWS, np.uint32)},
        bad={"cls": {}},
        error={"cls": ErrorColumns(np.zeros(n), np.zeros(n), np.eye(1, BINS, dtype=np.uint16).repeat(n, 0) * ROWS)},
        objects=tuple(
            ObjectColumns(
                rng.integers(0, 1 << 24, n, np.uint32),
                rng.integers(0, 1 << 32, n, np.uint32),
                rng.integers(0, 256, (n, 32), np.uint8),
            )
            for _ in real.objects
        ),
    )
    write_seal(store, {(view.teacher_id, pass_id): SealedIndex.joined([real, drawn], store.slots)})


def _opened(folder: Path) -> dict[str, float]:
    """Open, find the teacher, see that nothing is missing."""
    watch = Watch()
    view = open_store(folder / "store.zarr").teacher()
    assert not view.holes("cls")
    return {**watch.figures(""), "MB": peak_megabytes()}


def _first_batch(folder: Path) -> dict[str, float]:
    """What training does before its first step, in this process; importing torch is not counted."""
    from embedkd.config import AugmentConfig
    from embedkd.join import JoinedShards, stored_samples
    from embedkd.training.augment import Augment

    watch = Watch()
    view = open_store(folder / "store.zarr").teacher()
    samples = stored_samples(view, "train", ("cls",), labels_needed=False)
    opened, watch = watch.figures("samples, "), Watch()
    transform = Augment(AugmentConfig(crop_padding_px=4, min_crop_area=0.5, flip=0.0), image_px=32)
    batch = next(iter(JoinedShards(samples, transform, global_batch_size=BATCH)))
    assert batch.targets["cls"].shape == (BATCH, DIM)
    return {**opened, **watch.figures("batch, ")}


class Watch:
    """Seconds by the clock and by the processor since it was made: others may use the machine too."""

    def __init__(self) -> None:
        self._clock, self._processor = time.perf_counter(), time.process_time()

    def figures(self, what: str) -> dict[str, float]:
        """Both, by name."""
        spent = time.perf_counter() - self._clock, time.process_time() - self._processor
        return {f"{what}seconds": spent[0], f"{what}processor seconds": spent[1]}


def peak_megabytes() -> float:
    """The most memory that this process had; getrusage would also tell what its parent had."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


CHILDREN = {"open": _opened, "first batch": _first_batch}


def _sizes(store: Path) -> dict[str, int]:
    found = [*store.glob("manifest/*.json"), *store.glob("teachers/*/*/sealed/*.json"), *store.glob("sealed/*.json")]
    return {path.relative_to(store).as_posix(): path.stat().st_size for path in found}


def _measured(name: str, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Minimum, median and maximum of every figure over processes."""
    command = [sys.executable, "-m", "benchmarks.large", "--child", name, "--folder", str(folder)]
    found = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(rounds)]
    figures = {figure: summary([values[figure] for values in found]) for figure in found[0]}
    for figure, values in figures.items():
        print(f"  {name}: {figure} {values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})")
    return figures


if __name__ == "__main__":
    main()
