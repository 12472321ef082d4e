"""Bytes, error and usefulness of every encoding, side by side: the tables of docs/encodings.md.

    python -m benchmarks.encodings [--store STORE] [--json FILE]

Real rows: what the packaged ImageNet teacher says of the embedded data set, as float32 (computed first, unless --store
names a store that holds them). Every encoding writes them through `PassWriter` and is read through `TeacherView`. Of
``pooled``: the label of the nearest neighbours, and a linear probe (logistic regression, as `embedkd head` fits it),
both from decoded training rows, tested on decoded val and test rows. Of ``logits``: how often the largest one is the
same, and the Kullback-Leibler divergence of the decoded distribution from the teacher's. Drawn rows, normal and
heavy-tailed (Student's t, 3 degrees of freedom), show sizes and errors alone. Errors are computed here, in float64.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import finish
from benchmarks.store import Case, rows_of, shard_of, spec_of
from embedkd.evaluation.knn import knn_accuracy
from embedkd.heads.logistic import Rows, fit
from embedkd.records import DecodePolicy, OutputSpec, RowStatus, Shard
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, SlotRows, create_store, open_store

TEACHER = "packaged:efficientnet-lite0"
DENSE = ("float32", "float16", "bfloat16", "int8")
TOP = ("top10", "top50", "top100")
DRAWN = Case(4_096, 4_096, 768, "float32")
L2, ITERATIONS = 1e-2, 200  # of the linear probe, the same for every encoding

Matrix = NDArray[np.float32]
Facts = dict[str, float]


@dataclass(frozen=True)
class Said:
    """All that a teacher said of one output, slot by slot.

    Attributes:
        output: Name and width.
        slots: What a writer takes.
        shards: In the order of the slots, of which each is one shard.
    """

    output: OutputSpec
    slots: Sequence[SlotRows]
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> Matrix:
        """float32 [n, D], of all slots."""
        return np.concatenate([slot.outputs[self.output.name] for slot in self.slots])

    @property
    def labels(self) -> NDArray[np.int64]:
        """i64 [n]."""
        return np.concatenate([slot.labels for slot in self.slots]).astype(np.int64)

    @property
    def train(self) -> NDArray[np.bool_]:
        """Bool [n]: whether a row is of the training split."""
        return np.concatenate([np.full(shard.rows, shard.split == "train") for shard in self.shards])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help=f"with float32 rows of {TEACHER} over data:clipart")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = options.store or precomputed(folder / "said")
        pooled, logits = said_in(store, "pooled"), said_in(store, "logits")
        facts = {
            "pooled": table("pooled", pooled, DENSE, folder, probes=True),
            "logits": table("logits", logits, (*DENSE, *TOP), folder),
        }
        rng, shape = np.random.default_rng(0), (DRAWN.rows, DRAWN.dim)
        for name, rows in (("normal", rng.standard_normal(shape)), ("heavy-tailed", rng.standard_t(3, shape))):
            facts[name] = table(f"{name}, {DRAWN.dim} wide", drawn(rows.astype(np.float32)), DENSE, folder / name)
    finish("encodings", facts, options.json)


def precomputed(out: Path) -> Path:
    """Run the teacher once and keep what it says as float32."""
    command = [sys.executable, "-m", "embedkd", "precompute", "--teacher", TEACHER, "--data", "data:clipart"]
    flags = ["--outputs", "pooled,logits", "--encoding", "float32", "--out", str(out)]
    subprocess.run([*command, *flags], check=True)
    return out


def said_in(path: Path, output: str) -> Said:
    """What a float32 store holds of one output."""
    store = open_store(path)
    view = store.teacher()
    spec = view.spec.output(output)
    assert spec is not None
    slots = []
    for slot in store.slots:
        read = view.read(slot, output)
        assert read.rows.dtype == np.float32, f"{path} holds {output} as {spec.encoding}; expected float32"
        assert (read.status == RowStatus.OK).all()
        source = {"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b}
        said, status = {output: read.rows}, {output: read.status}
        slots.append(SlotRows(read.keys, read.labels, read.places, said, status, source))
    return Said(spec, slots, tuple(slot.shard for slot in store.slots))


def drawn(rows: Matrix) -> Said:
    """One slot of these rows."""
    shard = shard_of(0, len(rows))
    facts = rows_of(DRAWN) | {"outputs": {"cls": rows}}
    source = {"url": shard.url, "bytes": shard.size_bytes, "blake2b": shard.blake2b}
    return Said(OutputSpec("cls", rows.shape[1]), [SlotRows(**facts, source=source)], (shard,))


def table(title: str, said: Said, encodings: Iterable[str], folder: Path, *, probes: bool = False) -> dict[str, Facts]:
    """Measure every encoding of one output, and print a line for each."""
    others = int((~said.train).sum())
    print(f"\n{title}: {len(said.labels):,} rows of {said.output.dim:,}" + (f", {others} to test on" if probes else ""))
    found: dict[str, Facts] = {}
    reference: NDArray[np.int64] | None = None
    for name in encodings:
        row_bytes, rows = round_trip(said, name, folder / f"{said.output.name}-{name}")
        facts = {"bytes a row": row_bytes} | errors(said.rows, rows, as_probabilities=name in TOP)
        if said.output.name == "logits":
            facts |= agreement(said.rows, rows)
        if name in TOP:
            facts["probability kept"] = float(np.sort(softmax(said.rows))[:, -int(name[3:]) :].sum(axis=1).mean())
        if probes:
            labels, true = probed(rows, said), said.labels[~said.train]
            reference = labels if reference is None else reference
            facts |= {"k-NN": nearest(rows, said), "linear probe": float((labels == true).mean())}
            facts["same label as float32's"] = float((labels == reference).mean())
        found[name] = facts
        print(f"  {name:<9}" + "".join(f"  {what} {value:.4g}" for what, value in facts.items()))
    return found


def round_trip(said: Said, encoding: str, folder: Path) -> tuple[float, Matrix]:
    """Write rows in one encoding and read them.

    Returns:
        The bytes of the objects of the output, its status apart, a row; and what a reader gets, float32 [n, D].
    """
    name = said.output.name
    spec = spec_of(Case(0, 0, said.output.dim, encoding), name)
    settings: dict[str, Any] = {"classes": None, "policy": DecodePolicy()}
    store = create_store(LocalStorage(folder), said.shards, root="data:clipart", **settings)
    writer = PassWriter(store, spec, Pass((name,), 256, 1, "none"))
    for slot, rows in zip(store.slots, said.slots, strict=True):
        writer.write(slot, rows, {})
    view = open_store(folder).teacher()
    paths = [schema.path for schema in view.output_schemas(name)[:-1]]
    total = sum(
        entry.size_bytes
        for slot in store.slots
        for entry in view.committed(slot, name).objects
        if entry.key.partition("/c/")[0] in paths
    )
    decoded = np.concatenate([view.read(slot, name).rows.astype(np.float32) for slot in store.slots])
    return total / len(decoded), decoded


def errors(said: Matrix, rows: Matrix, *, as_probabilities: bool) -> Facts:
    """1 - cosine a row, in float64."""
    a, b = (softmax(said), softmax(rows)) if as_probabilities else (said.astype(np.float64), rows.astype(np.float64))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    lost = ((a - b) ** 2).sum(axis=1) / 2  # of unit vectors this is 1 - cosine, without what a difference from 1 loses
    return {"1-cos mean": float(lost.mean()), "max": float(lost.max())}


def agreement(said: Matrix, rows: Matrix) -> Facts:
    """How alike two sets of logits are as distributions."""
    p, q = softmax(said), softmax(rows)
    divergence = (p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300)))).sum(axis=1)
    return {"same top-1": float((said.argmax(1) == rows.argmax(1)).mean()), "KL": float(divergence.mean())}


def nearest(rows: Matrix, said: Said) -> float:
    """Accuracy of the label of the nearest neighbours, for rows that are not of the training split."""
    train, labels = said.train, said.labels
    ((_, found),) = knn_accuracy(rows[train], labels[train], rows[~train], labels[~train])
    return found.value


def probed(rows: Matrix, said: Said) -> NDArray[np.int64]:
    """What a linear probe that was fitted to training rows says of the others: i64 [m]."""
    train, labels = said.train, said.labels
    bank = Rows(torch.from_numpy(rows[train]), torch.from_numpy(labels[train]), int(labels.max()) + 1)
    found = fit(bank, l2=L2, iterations=ITERATIONS, device=torch.device("cpu"))
    scores = torch.from_numpy(rows[~train]).double() @ found.weight.T + found.bias
    return scores.argmax(1).numpy()


def softmax(logits: Matrix) -> NDArray[np.float64]:
    """Probabilities, f64 [n, D]."""
    values = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(values / values.sum(axis=1, keepdims=True))


if __name__ == "__main__":
    main()
