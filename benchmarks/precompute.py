r"""How close precompute comes to what the bare teacher and bare decoding allow, and to clip-retrieval beside it.

    python -m benchmarks.precompute                                              # a small teacher, embedded weights
    python -m benchmarks.precompute --teacher vit:ViT-L-32 --random --images 192 --rounds 3     # a large one, full size
    python -m benchmarks.precompute --teacher vit:ViT-L-32 --random --device cuda --images 8192 --batch-size 256
    python -m benchmarks.precompute --teacher openclip:ViT-B-32 --random --images 512 --rounds 3 \
        --clip-retrieval-env DIR                                                 # clip-retrieval, same machine and run

The images are pictures of the embedded clip-art as JPEGs of 500 x 375 px, packed into tars with their captions. A round
measures, one after the other: the teacher on preloaded tensors, decoding and preprocessing alone, and the whole of
precompute (tar, decode, teacher, encode, write, commit) with the teacher already loaded. On a CPU both use all cores,
so the limit is 1 / (t_teacher + t_decode); beside a GPU it is 1 / max(t_teacher, t_decode).

clip-retrieval 2.45 pins older libraries, so it has an environment of its own: DIR is made where it is not there (this
installs packages and takes minutes). It reads the same tars and the same weights, saved as a checkpoint, and its rate
leaves out its start and its first batch, ours nothing but loading the teacher and one warm-up round.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.decoding import Kind, as_jpeg, pictures
from benchmarks.measure import finish, interleaved, summary
from embedkd.allocator import tune_allocator
from embedkd.precompute import Job, ShardProcessor
from embedkd.precompute.decoding import DecodePool
from embedkd.precompute.hardware import resolve_workers
from embedkd.precompute.worker import CHUNK_ROWS, Part, Transform
from embedkd.progress import Silent
from embedkd.records import DecodePolicy
from embedkd.sources.fields import image_suffix
from embedkd.sources.images import decode_image
from embedkd.sources.reader import ShardStream
from embedkd.sources.roots import ShardSource, open_root
from embedkd.sources.shards import index_shards, list_data
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, create_store, remembered_root
from embedkd.teachers import LoadOptions, Teacher, load_teacher

_SIZE = (500, 375)
_TAR_ROWS = 64  # clip-retrieval hangs where a data worker gets no tar of its own
_PRELOADED_BATCHES = 4


class Comparison:
    """One teacher on one data set, measured in three ways; each measure gives seconds an image."""

    def __init__(self, teacher: Teacher, data: Path, *, batch_size: int, device: str, workers: int) -> None:
        self._cores = os.cpu_count() or 1
        self._cuda = device.startswith("cuda")
        self._workers = workers
        torch.set_num_threads(self._cores)
        self._teacher = teacher
        self._outputs = teacher.spec.default_outputs
        self._listing = list_data(str(data))
        self._shards = index_shards(self._listing)
        self._batch_size = batch_size
        root = open_root(self._listing.root)
        self.images = [
            sample.fields[suffix]
            for name in self._listing.names
            for sample in ShardStream(ShardSource(root, name))
            if (suffix := image_suffix(sample.fields, sample.key)) is not None
        ]
        first = self.images[: _PRELOADED_BATCHES * batch_size]
        pixels = [teacher.preprocess(decode_image(image)) for image in first]
        batches = [torch.stack(pixels[i : i + batch_size]) for i in range(0, len(pixels), batch_size)]
        self._batches = [batch.pin_memory() if self._cuda else batch for batch in batches]

    def teacher(self) -> float:
        """The bare teacher on preloaded tensors."""
        started = time.perf_counter()
        done = 0
        while done < len(self.images):
            for batch in self._batches:
                self._teacher.embed(batch, self._outputs)
                done += len(batch)
        return (time.perf_counter() - started) / done

    def decode(self) -> float:
        """Decoding and preprocessing alone, as a precompute does it; workers have started before the clock does."""
        transform = Transform(self._teacher.preprocess, self._teacher.spec.preprocess.crop_px)
        pool = DecodePool(
            [transform], DecodePolicy(), workers=self._workers, threads=self._cores, batch_rows=self._batch_size
        )
        try:
            self._through(pool, self.images[: 4 * CHUNK_ROWS * (self._workers or self._cores)])
            started = time.perf_counter()
            self._through(pool, self.images)
            return (time.perf_counter() - started) / len(self.images)
        finally:
            pool.close()

    @staticmethod
    def _through(pool: DecodePool, images: list[bytes]) -> None:
        futures = []
        for first in range(0, len(images), CHUNK_ROWS):
            block = pool.free.get()
            part: list[Part] = [(data, "") for data in images[first : first + CHUNK_ROWS]]
            futures.append(pool.submit(part, block, (0,)))
            futures[-1].add_done_callback(lambda _, block=block: pool.free.put(block))  # type: ignore[misc]
        for future in futures:
            future.result()

    def precompute(self) -> float:
        """Tar to commit, the teacher already loaded; starting decode workers is part of it."""
        with tempfile.TemporaryDirectory() as folder:
            storage = LocalStorage(Path(folder) / "store.zarr")
            root = remembered_root(self._listing.root, storage.url)
            store = create_store(storage, self._shards, root=root, classes=None, policy=DecodePolicy())
            plan = Pass(self._outputs, self._batch_size, self._cores, "benchmark")
            job = Job(self._teacher, PassWriter(store, self._teacher.spec, plan))
            processor = ShardProcessor(
                store,
                self._listing.root,
                [job],
                decode_workers=self._workers,
                max_bad_fraction=0.1,
                progress=Silent(),
                pin_memory=self._cuda,
            )
            started = time.perf_counter()
            processor.run(store.slots)
            return (time.perf_counter() - started) / processor.tally.rows

    def limit(self, teacher_s: float, decode_s: float) -> float:
        """Seconds an image that teacher and decoding need together on this hardware."""
        return max(teacher_s, decode_s) if self._cuda else teacher_s + decode_s


class ClipRetrieval:
    """clip-retrieval's inference in an environment of its own.

    Args:
        environment: Its folder; made where it is not there.
        shards: Folder of the tars.
        model: open_clip's name.
        weights: A checkpoint of it.
        batch_size: Images a forward pass.
        workers: Processes that prepare images; its loader needs at least one.
    """

    def __init__(
        self, environment: Path, shards: Path, model: str, weights: Path, *, batch_size: int, workers: int
    ) -> None:
        self._python = environment / "bin" / "python"
        if not self._python.is_file():
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
            wanted = ["setuptools<80", "clip-retrieval==2.45.0"]
            subprocess.run([str(self._python), "-m", "pip", "install", "-q", *wanted], check=True)
        tars = sorted(shards.glob("*.tar"))
        pattern = f"{shards}/train-{{{tars[0].stem[-6:]}..{tars[-1].stem[-6:]}}}.tar"
        self._arguments = [pattern, f"open_clip:{model}/{weights.resolve()}"]
        self._numbers = [str(batch_size), str(max(workers, 1))]

    def rate(self) -> float:
        """Seconds an image, its start and first batch left out."""
        script = Path(__file__).with_name("clip_retrieval_run.py")
        with tempfile.TemporaryDirectory() as out:
            command = [str(self._python), str(script), *self._arguments, out, *self._numbers]
            # Its libraries ask the hub and a tracking service for things that this needs none of, and wait for answers.
            quiet = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
            ran = subprocess.run(
                command, capture_output=True, text=True, check=False, env=os.environ | quiet, stdin=subprocess.DEVNULL
            )
        if ran.returncode:
            raise SystemExit(f"clip-retrieval failed:\n{ran.stderr[-2000:]}")
        line = next(line for line in reversed(ran.stdout.splitlines()) if line.startswith("rate "))
        return 1 / float(line.split()[1])


def write_tars(folder: Path, count: int) -> None:
    """So many JPEGs in tars of equal size, each with a caption."""
    sources = pictures(min(count, _TAR_ROWS))
    files = [as_jpeg(picture, _SIZE, Kind("RGB", 2)) for picture in sources]
    for first in range(0, count, _TAR_ROWS):
        with tarfile.open(folder / f"train-{first // _TAR_ROWS:06d}.tar", "w") as tar:
            for number in range(first, min(first + _TAR_ROWS, count)):
                for suffix, data in (("jpg", files[number % len(files)]), ("txt", b"a picture")):
                    info = tarfile.TarInfo(f"{number:08d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def save_checkpoint(model: str, file: Path) -> None:
    """Random weights of an open_clip model as the checkpoint that both sides read, and how its images are prepared."""
    import open_clip

    torch.manual_seed(0)
    made = open_clip.create_model(model)
    torch.save(made.state_dict(), file)
    facts = open_clip.get_model_preprocess_cfg(made)
    chosen = {name: facts[name] for name in ("mean", "std", "interpolation", "resize_mode")}
    file.with_name("open_clip_config.json").write_text(json.dumps({"preprocess_cfg": chosen}))


def report(one: Comparison, found: dict[str, list[float]]) -> dict[str, list[float]]:
    """Print rates, and ratios of one round each."""
    for name, values in found.items():
        rate = summary([1 / value for value in values])
        print(f"  {name:<14} {rate['median']:8.1f} images/s  ({rate['min']:.1f} to {rate['max']:.1f})")
    rounds = list(zip(found["teacher"], found["decode"], found["precompute"], strict=True))
    ratios = {
        "of the limit": [one.limit(teacher, decode) / whole for teacher, decode, whole in rounds],
        "of the bare teacher": [teacher / whole for teacher, _, whole in rounds],
    }
    if "clip-retrieval" in found:
        pairs = zip(found["clip-retrieval"], found["precompute"], strict=True)
        ratios["of clip-retrieval"] = [theirs / ours for theirs, ours in pairs]
    goals = {"of the limit": ">= 0.95", "of the bare teacher": ">= 0.92 for ViT-L or on CUDA"}
    for name, values in ratios.items():
        ratio = summary(values)
        goal = goals.get(name, ">= 1.2")
        print(
            f"  precompute / {name[3:]}: {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f}), goal {goal}"
        )
    return ratios


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="packaged:efficientnet-lite0")
    parser.add_argument("--random", action="store_true", help="draw the weights and read none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--decode-workers", type=int, help="by the hardware where it is not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clip-retrieval-env", type=Path, metavar="DIR")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tune_allocator()
    with tempfile.TemporaryDirectory() as folder:
        data, name = Path(folder) / "shards", options.teacher
        data.mkdir()
        write_tars(data, options.images)
        workers = resolve_workers(options.decode_workers, options.device)
        theirs = None
        if options.clip_retrieval_env is not None:
            model = name.removeprefix("openclip:")
            save_checkpoint(model, Path(folder) / "model.pt")
            name = f"openclip:{model}@{Path(folder) / 'model.pt'}"
            facts = {"batch_size": options.batch_size, "workers": workers or os.cpu_count() or 1}
            theirs = ClipRetrieval(options.clip_retrieval_env, data, model, Path(folder) / "model.pt", **facts)
        seed = 0 if options.random and theirs is None else None
        teacher = load_teacher(name, LoadOptions(device=options.device, random_seed=seed))
        one = Comparison(teacher, data, batch_size=options.batch_size, device=options.device, workers=workers)
        measures = {"teacher": one.teacher, "decode": one.decode, "precompute": one.precompute}
        interleaved(measures, 1)  # warm-up
        if theirs is not None:
            measures["clip-retrieval"] = theirs.rate
        print(
            f"{options.teacher} on {options.device}, {teacher.spec.precision}, {len(one.images)} images, "
            f"batch {options.batch_size}, {workers} decode workers, {options.rounds} rounds"
        )
        found = interleaved(measures, options.rounds)
    ratios = report(one, found)
    finish("precompute", {"seconds_per_image": found, "ratios": ratios}, options.json)


if __name__ == "__main__":
    main()
