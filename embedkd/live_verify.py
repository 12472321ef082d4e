"""Does a store say what its teacher says? Random rows are computed again and compared with the stored ones."""

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import IntegrityError, StoreError, TeacherError
from embedkd.progress import Progress, Silent
from embedkd.records import RowStatus, key_hash
from embedkd.seeding import generator
from embedkd.sources.fields import CAPTION_SUFFIX, image_suffix
from embedkd.sources.images import decode_image
from embedkd.sources.reader import ShardStream
from embedkd.sources.roots import ShardSource, open_root
from embedkd.sources.shards import root_of
from embedkd.sources.views import crop_view
from embedkd.store import SAME_COSINE
from embedkd.store.agreeing import MOST_LOST, least_cosine
from embedkd.store.heads import is_derived
from embedkd.store.quantising import encode
from embedkd.store.rows import FloatRows, comparable
from embedkd.teachers.base import preprocess_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from embedkd.records import Sample, TeacherSpec
    from embedkd.storage import Storage
    from embedkd.store import Rows, Slot, TeacherView
    from embedkd.teachers import Teacher

_BATCH = 32
_RANDOM_SOURCE = re.compile(r"random weights, seed (\d+)")
Pick = tuple["Slot", list[int]]


@dataclass(frozen=True)
class LiveCheck:
    """One output, computed again.

    Attributes:
        output: Its name.
        rows: Rows compared.
        cosine_mean: Mean cosine of the live row and the stored one.
        cosine_min: The smallest.
        max_error: Greatest absolute difference of a value; of a probability where rows are top-k logits.
        least: The smallest cosine that passes.
    """

    output: str
    rows: int
    cosine_mean: float
    cosine_min: float
    max_error: float
    least: float = SAME_COSINE

    @property
    def passed(self) -> bool:
        """Whether every row is as near as two machines come to each other (cosine 0.9999), but for its encoding."""
        return self.cosine_min >= self.least


def verify_live(
    view: "TeacherView",
    samples: int,
    *,
    teacher: str | None = None,
    data: str | None = None,
    device: str = "cpu",
    trusted_code: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[LiveCheck]:
    """Run the teacher again on random samples.

    Args:
        view: The teacher's part of a store.
        samples: How many samples are drawn from the committed slots.
        teacher: Name or path to load; None takes what the store recorded.
        data: Where the shards lie; None takes what the store remembers.
        device: To run on.
        trusted_code: See `LoadOptions`.
        seed: Of the draw.
        progress: Who watches.

    Raises:
        TeacherError: The teacher cannot be loaded, or is another one than the store's.
        StoreError: Nothing is committed, or there is no model behind the rows.
        IntegrityError: A row is of another sample than the shard has there, or cannot be computed any more.
        SourceError: A shard cannot be read.
    """
    from embedkd.allocator import tune_allocator

    watch = progress or Silent()
    tune_allocator()
    live = load_again(view.spec, teacher, device, trusted_code)
    root = open_root(view.store.data_root if data is None else root_of(data))
    picks = _draw(view, samples, seed)
    found: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = defaultdict(list)
    lost: dict[str, float] = defaultdict(float)
    watch.begin("verify", sum(len(ordinals) for _, ordinals in picks), "samples")
    try:
        for slot, ordinals in picks:
            for output, said, kept in _compare_slot(view, live, slot, ordinals, root):
                found[output].append(comparable(FloatRows(said), kept))
                lost[output] = max(lost[output], _lost(view, output, said))
            watch.advance(len(ordinals))
    finally:
        watch.end()
    return [_judge(output, pairs, lost[output]) for output, pairs in sorted(found.items())]


def load_again(spec: "TeacherSpec", name: str | None, device: str, trusted_code: str | None) -> "Teacher":
    """The teacher that a specification describes.

    Raises:
        StoreError: The rows come from a fitted head and not from a model.
        TeacherError: What was loaded is another teacher.
    """
    from embedkd.teachers import LoadOptions, load_teacher

    if is_derived(spec):
        raise StoreError(f"{spec.name} is a head on stored rows: no model says them; verify {spec.derived_from}")
    drawn = _RANDOM_SOURCE.fullmatch(spec.source)
    options = LoadOptions(device, spec.precision, None if drawn is None else int(drawn[1]), trusted_code)
    teacher = load_teacher(name or recorded_name(spec), options)
    loaded = replace(teacher.spec.encoded(spec.encodings), view=spec.view)
    if loaded.fingerprint != spec.fingerprint:
        ours, theirs = spec.to_json(), loaded.to_json()
        differ = [key for key in ("model", "weights_sha256", "preprocess", "outputs") if ours[key] != theirs[key]]
        raise TeacherError(
            f"{name or recorded_name(spec)} is not the teacher of this store: {' and '.join(differ) or 'it'} differ\n"
            "name the right weights with --teacher"
        )
    return teacher


def recorded_name(spec: "TeacherSpec") -> str:
    """The name to load a store's teacher by: with its path where its weights came from one that is still there.

    >>> from embedkd.records import Preprocess, TeacherSpec
    >>> facts = (Preprocess(8, (8, 8), "bilinear", (0.0,) * 3, (1.0,) * 3), False, "float32")
    >>> recorded_name(TeacherSpec("vit:ViT-L-32", "", "", (), *facts, source="google/vit-large-patch32-224-in21k"))
    'vit:ViT-L-32'
    """
    local = spec.revision is None and Path(spec.source).expanduser().exists()
    return f"{spec.name.partition('@')[0]}@{spec.source}" if local else spec.name


def _draw(view: "TeacherView", samples: int, seed: int) -> list[Pick]:
    slots = [slot for slot in view.store.slots if any(view.commit(slot, output) for output in view.outputs)]
    total = sum(slot.rows for slot in slots)
    if not total:
        raise StoreError(f"{view.store.storage.url} holds no rows of {view.spec.name} yet; run embedkd precompute")
    chosen = np.sort(generator(seed, "verify live").choice(total, min(samples, total), replace=False))
    picks, first = [], 0
    for slot in slots:
        inside = chosen[(chosen >= first) & (chosen < first + slot.rows)] - first
        first += slot.rows
        if len(inside):
            picks.append((slot, inside.tolist()))
    return picks


def _compare_slot(
    view: "TeacherView", live: "Teacher", slot: "Slot", ordinals: list[int], root: "Storage"
) -> "Iterator[tuple[str, NDArray[np.float64], Rows]]":
    """For every committed output: live and stored rows of the samples that have an embedding."""
    samples = _samples(slot, ordinals, root)
    for output in view.outputs:
        if view.commit(slot, output) is None:
            continue
        read = view.read(slot, output)
        for ordinal, sample in samples.items():
            if int(read.keys[ordinal]) != key_hash(sample.key):
                raise IntegrityError(f"row {ordinal} of slot {slot.index} is not of sample {sample.key!r} of its shard")
        usable = [ordinal for ordinal in ordinals if read.status[ordinal] == RowStatus.OK]
        if usable:
            said = _say(live, output, [samples[ordinal] for ordinal in usable], view, slot)
            yield output, said, read.stored.take(np.array(usable))


def _lost(view: "TeacherView", output: str, said: "NDArray[np.float64]") -> float:
    """What encoding may have changed: of top-k logits what it does to these rows, else what the store says it did."""
    spec = view.spec.output(output)
    assert spec is not None
    if spec.top is None:
        return min(view.error(output).max, MOST_LOST)
    return encode(spec, said.astype(np.float32), np.full(len(said), RowStatus.OK, np.uint8)).error.max


def _samples(slot: "Slot", ordinals: list[int], root: "Storage") -> "Mapping[int, Sample]":
    wanted = {slot.start + ordinal: ordinal for ordinal in ordinals}
    with ShardStream(ShardSource(root, slot.shard.url)) as stream:
        found = {wanted[sample.ordinal]: sample for sample in stream if sample.ordinal in wanted}
    missing = set(ordinals) - set(found)
    if missing:
        raise IntegrityError(f"{slot.shard.url} has no sample {min(missing)}; it is not the shard of this store")
    return found


def _say(
    live: "Teacher", output: str, samples: "list[Sample]", view: "TeacherView", slot: "Slot"
) -> "NDArray[np.float64]":
    import torch

    rows = []
    for first in range(0, len(samples), _BATCH):
        part = samples[first : first + _BATCH]
        if output == "text":
            assert live.tokenize is not None
            said = live.embed_text(live.tokenize([sample.fields[CAPTION_SUFFIX].decode() for sample in part]))
        else:
            said = live.embed(torch.stack([_pixels(live, s, view, slot) for s in part]), [output])[output]
        rows.append(said.numpy().astype(np.float64))
    return np.concatenate(rows)


def _pixels(live: "Teacher", sample: "Sample", view: "TeacherView", slot: "Slot") -> "Tensor":
    suffix = image_suffix(sample.fields, f"sample {sample.key!r} of {slot.shard.url}")
    if suffix is None:
        raise IntegrityError(f"sample {sample.key!r} of {slot.shard.url} has a row and no image")
    image, shown = decode_image(sample.fields[suffix], view.store.policy), view.spec.view
    return preprocess_for(live, shown)(image if shown is None else crop_view(image, shown, sample.key))


def _judge(output: str, pairs: "list[tuple[NDArray[np.float64], NDArray[np.float64]]]", lost: float = 0.0) -> LiveCheck:
    said, stored = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    lengths = np.linalg.norm(said, axis=1) * np.linalg.norm(stored, axis=1)
    # Two rows of zeros say the same; one of them alone does not.
    alike = np.where((said == stored).all(axis=1), 1.0, (said * stored).sum(axis=1) / np.maximum(lengths, 1e-30))
    away = float(np.abs(said - stored).max())
    return LiveCheck(output, len(said), float(alike.mean()), float(alike.min()), away, least_cosine(lost))
