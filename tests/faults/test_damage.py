"""Every object of a finished store with everything in it: a bit flipped, cut, longer, gone, or another one's bytes.

`verify` finds each, and training either says so before it uses a row, or needs nothing of it and reads the right rows.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import embedkd.teachers
from embedkd.config import Config, DataConfig, PrecomputeConfig
from embedkd.errors import EmbedKDError
from embedkd.precompute import precompute
from embedkd.records import OutputSpec
from embedkd.sources.shards import index_shards, list_data
from embedkd.storage import LocalStorage
from embedkd.store import append_shards, open_store, seal_store
from embedkd.store.inventory import inventory
from embedkd.teachers import LoadOptions
from tests.faults.held import HeldStorage, State
from tests.faults.scenes import add_head, check_message, problems_of, views_of
from tests.faults.storms import state_of
from tests.faults.training import train_reads
from tests.faults.zygote import load_tiny
from tests.tiny import SPEC, TEXT_SPEC, TinyTeacher, sample, write_shard, write_tar


class LogitsTeacher(TinyTeacher):
    """Says five logits."""

    spec = replace(SPEC, name="vit:ViT-L-32", weights_sha256="3" * 64, outputs=(OutputSpec("logits", 5),))

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        return {"logits": super().embed(pixels, ["cls"])["cls"]}


def load(name: str, options: LoadOptions | None = None) -> TinyTeacher:
    return LogitsTeacher() if name == LogitsTeacher.spec.name else load_tiny(name, options)


def compute(folder: Path, teacher: str, *outputs: str, encoding: tuple[str, ...] = ()) -> None:
    """Rows and class means of one pass."""
    settings = PrecomputeConfig(
        teachers=(teacher,),
        out=str(folder / "store.zarr"),
        outputs=outputs,
        batch_size=3,
        threads=1,
        decode_workers=0,
        device="cpu",
        encoding=encoding,
        max_bad_fraction=1.0,
    )
    precompute(Config(data=DataConfig(shards=str(folder / "data")), precompute=settings))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three teachers, five encodings, class sets, a head; sealed, appended to, computed, and sealed again."""
    folder = tmp_path_factory.mktemp("damage")
    store, data = folder / "store.zarr", folder / "data"
    storage = LocalStorage(store)
    bad = [(name, b"no image" if name.endswith(".png") else said) for name, said in sample("train-0/bad", 1)]
    write_tar(data / "train-0.tar", [m for n in range(4) for m in sample(f"train-0/{n}", n % 3)] + bad)
    write_shard(data / "val-0.tar", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedkd.teachers, "load_teacher", load)
        compute(folder, SPEC.name, "cls")
        seal_store(storage)
        write_shard(data / "train-1.tar", 3)
        append_shards(storage, index_shards(list_data(str(data))))
        compute(folder, SPEC.name, "cls")
        compute(folder, SPEC.name, "pooled")
        compute(folder, TEXT_SPEC.name, "image", "text", encoding=("image=int8", "text=bfloat16"))
        compute(folder, LogitsTeacher.spec.name, "logits", encoding=("top2",))
    add_head(storage, SPEC.name)
    seal_store(storage)
    return store


class Damaged:
    """A store that is damaged and mended again.

    Args:
        folder: The store.

    Attributes:
        state: What it holds.
        parts: Keys of what belongs to it; besides there is the index of the first seal, which the second replaced.
        right: What training reads.
    """

    def __init__(self, folder: Path) -> None:
        self._storage = LocalStorage(folder)
        self._folder = folder
        self.state: State = state_of(self._storage)
        self.parts = {item.key for item in inventory(open_store(folder))}
        self.right = train_reads(folder)

    def expect_found(self, what: str, *changed: tuple[str, bytes | None]) -> None:
        """Change objects, look whether that is found and that no wrong row is used, and mend them."""
        if any(key in self.parts for key, _ in changed):
            state = {key: data for key, data in (self.state | dict(changed)).items() if data is not None}
            assert self._problem(state), f"verify finds nothing: {what}"
        for key, data in changed:
            self._storage.remove(key)
            if data is not None:
                self._storage.put_new(key, data)
        try:
            found = train_reads(self._folder)
        except EmbedKDError as error:
            check_message(error)
        else:
            assert found == self.right, f"training uses it: {what}"
        finally:
            for key, _ in changed:
                self._storage.replace(key, self.state[key])

    def _problem(self, state: State) -> str:
        try:
            problems = problems_of(HeldStorage(state))
        except EmbedKDError as error:
            problems = [str(error)]
        assert not [line for line in problems if "\n" in line]
        return problems[0] if problems else ""


@pytest.fixture(scope="module")
def damaged(sound: Path) -> Damaged:
    return Damaged(sound)


def kind_of(key: str) -> str:
    """What an object could be mistaken for."""
    parts = key.split("/")
    if "/c/" in key:
        return "chunk"
    return "commit" if "commits" in parts else parts[-1] if parts[-1] == "zarr.json" else parts[-2]


def array_of(key: str) -> str:
    """The array of a chunk or the pass of a commit; of anything else itself."""
    return re.sub(r"/c/\d+|/\d+\.json$", "", key)


def test_the_store_has_everything_and_is_whole(damaged: Damaged, sound: Path) -> None:
    assert not problems_of(LocalStorage(sound))
    assert {kind_of(key) for key in damaged.state} >= {"chunk", "commit", "zarr.json", "manifest", "sealed"}
    assert damaged.parts <= damaged.state.keys()
    besides = damaged.state.keys() - damaged.parts
    assert all("/sealed/0.json" in key and key.startswith("teachers/") for key in besides)
    specs = [view.spec for view in views_of(open_store(sound))]
    assert {o.encoding for spec in specs for o in spec.outputs} == {"float16", "float32", "bfloat16", "int8", "top2"}
    assert len(damaged.right) > 20


def flips(rng: random.Random, data: bytes, count: int) -> Iterator[bytes]:
    for _ in range(count):
        at = rng.randrange(len(data))
        yield data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def test_every_flipped_bit_is_found(damaged: Damaged, thorough: bool, storm_seed: int) -> None:
    rng = random.Random(f"{storm_seed} flip")
    for key, data in damaged.state.items():
        for changed in flips(rng, data, 8 if thorough else 1):
            damaged.expect_found(f"a bit of {key}, seed {storm_seed}", (key, changed))


def test_every_object_that_is_cut_or_longer_is_found(damaged: Damaged, thorough: bool, storm_seed: int) -> None:
    rng = random.Random(f"{storm_seed} cut")
    for number, (key, data) in enumerate(damaged.state.items()):
        lengths = (b"", data[:-1], data[: rng.randrange(len(data))], data + b"\0", data + data)
        for changed in lengths if thorough else (lengths[number % len(lengths)],):
            damaged.expect_found(f"{len(changed)} of {len(data)} bytes of {key}, seed {storm_seed}", (key, changed))


def test_every_object_that_is_gone_is_found(damaged: Damaged) -> None:
    last = max(key for key in damaged.state if key.startswith("sealed/") and "zarr" not in key)
    for key in damaged.state.keys() - {last}:
        damaged.expect_found(f"no {key}", (key, None))


def test_every_swap_is_found(damaged: Damaged, thorough: bool, storm_seed: int) -> None:
    """Each object with another one that it could be mistaken for: of another slot first of all, then of its kind."""
    rng = random.Random(f"{storm_seed} swap")
    for likeness in (array_of, *[kind_of] * (8 if thorough else 1)):
        alone: dict[str, str] = {}
        for key in rng.sample(sorted(damaged.state), len(damaged.state)):
            other = alone.pop(likeness(key), None)
            if other is None or damaged.state[other] == damaged.state[key]:
                alone[likeness(key)] = key
                continue
            what = f"{key} <-> {other}, seed {storm_seed}"
            damaged.expect_found(what, (key, damaged.state[other]), (other, damaged.state[key]))


@pytest.mark.storm
def test_every_object_in_the_place_of_another_is_found(damaged: Damaged, storm_seed: int) -> None:
    """As a server gives it that mixes up two requests."""
    rng = random.Random(f"{storm_seed} mistaken")
    for key, data in damaged.state.items():
        others = [one for one in damaged.state if damaged.state[one] != data]
        for other in rng.sample(sorted(others), 4):
            damaged.expect_found(f"{other} as {key}, seed {storm_seed}", (key, damaged.state[other]))
