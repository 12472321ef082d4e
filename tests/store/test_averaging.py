"""Class means: which samples, in which order, and the same bits whatever happened before."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import trim_mean  # type: ignore[import-untyped]

from embedkd.errors import FormatError, HoleError, StoreError, UnknownNameError
from embedkd.records import DecodePolicy, OutputSpec, Preprocess, Shard, TeacherSpec, key_hash
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, SlotRows, TeacherView, average, create_store, default_name, open_store
from embedkd.store.averaging import rank
from embedkd.store.classes import Method
from embedkd.store.trimming import cut, trimmed_means
from tests.store.samples import places_of

if TYPE_CHECKING:
    from collections.abc import Callable

DIM = 5
SPEC = TeacherSpec(
    name="vit:x",
    model="x",
    weights_sha256="0" * 64,
    outputs=(OutputSpec("cls", DIM),),
    preprocess=Preprocess(8, (8, 8), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    normalised=False,
    precision="float32",
    source="here",
)
SIZES = {"train-0.tar": 40, "train-1.tar": 9, "val-0.tar": 12, "train-2.tar": 23}


def _sample(name: str, ordinal: int) -> tuple[int, int, int, NDArray[np.float32]]:
    """Key, label, status and row: functions of the sample alone. Class 3 has few samples, class 4 has none."""
    rng = np.random.default_rng([int(hashlib.sha256(name.encode()).hexdigest()[:8], 16), ordinal])
    label = 3 if ordinal == 8 else int(rng.integers(-1, 3))
    status = 2 if ordinal % 10 == 7 else 1
    return key_hash(f"{name}:{ordinal}"), label, status, rng.normal(size=DIM, scale=3).astype(np.float32)


def _make(
    folder: Path,
    *,
    capacity: int = 16,
    order: list[int] | None = None,
    names: tuple[str, ...] = tuple(SIZES),
    classes: tuple[str, ...] | None = ("a", "b", "c", "d", "e"),
    labels: dict[int, int] | None = None,
    spec: TeacherSpec = SPEC,
) -> TeacherView:
    shards = tuple(
        Shard(n, "val" if "val" in n else "train", 100 * SIZES[n], SIZES[n], f"{SIZES[n]:064x}") for n in names
    )
    storage = LocalStorage(folder)
    store = create_store(storage, shards, root=".", classes=classes, policy=DecodePolicy(), capacity=capacity)
    (output,) = (o.name for o in spec.outputs)
    writer = PassWriter(store, spec, Pass((output,), 8, 1, "x"))
    for index in order or range(len(store.slots)):
        slot = store.slots[index]
        samples = [_sample(slot.shard.url, slot.start + i) for i in range(slot.rows)]
        keys, found, status, rows = zip(*samples, strict=True)
        new = [label if labels is None else labels.get(label, -1) for label in found]
        writer.write(
            slot,
            SlotRows(
                np.array(keys, np.uint64),
                np.array(new, np.int32),
                places_of(slot),
                {output: np.array(rows, np.float32)},
                {output: np.array(status, np.uint8)},
                {"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b},
            ),
            {},
        )
    return open_store(storage).teacher()


def _naive(per_class: int, seed: int, names: tuple[str, ...] = tuple(SIZES)) -> dict[int, tuple[Any, int, float]]:
    """Mean, count and spread of each class, from the samples and the norm alone."""
    ranked: dict[int, list[Any]] = {}
    for at, name in enumerate(n for n in names if "val" not in n):
        for ordinal in range(SIZES[name]):
            key, label, status, row = _sample(name, ordinal)
            if label >= 0 and status == 1:
                digest = hashlib.blake2b(key.to_bytes(8, "little"), digest_size=8, key=str(seed).encode()).digest()
                stored = row.astype(np.float16).astype(np.float64)
                ranked.setdefault(label, []).append((int.from_bytes(digest, "little"), at, ordinal, stored))
    result = {}
    for label, candidates in ranked.items():
        chosen = sorted(sorted(candidates, key=lambda c: c[:3])[:per_class], key=lambda c: c[1:3])
        total = np.zeros(DIM)
        for candidate in chosen:
            total = total + candidate[3]
        mean = total / len(chosen)
        squares = 0.0
        for candidate in chosen:
            squares = squares + ((candidate[3] - mean) ** 2).sum()
        result[label] = (mean.astype(np.float32), len(chosen), np.sqrt(squares / len(chosen)))
    return result


def _chosen(per_class: int, seed: int) -> dict[int, NDArray[np.float64]]:
    """The rows that stand for each class, as they are stored."""
    ranked: dict[int, list[Any]] = {}
    for at, name in enumerate(n for n in SIZES if "val" not in n):
        for ordinal in range(SIZES[name]):
            key, label, status, row = _sample(name, ordinal)
            if label >= 0 and status == 1:
                ranked.setdefault(label, []).append((rank(seed, key), at, ordinal, row.astype(np.float16)))
    return {
        label: np.array([row for *_, row in sorted(found, key=lambda c: c[:3])[:per_class]], np.float64)
        for label, found in ranked.items()
    }


@pytest.fixture(scope="module")
def view(fast_disk: None, tmp_path_factory: pytest.TempPathFactory) -> TeacherView:
    return _make(tmp_path_factory.mktemp("averaging") / "s")


@pytest.mark.parametrize("per_class", [1, 3, 10, 1000])
@pytest.mark.parametrize("seed", [0, 7, -1])
def test_means_are_those_of_a_plain_loop(view: TeacherView, per_class: int, seed: int) -> None:
    made, expected = average(view, "cls", samples_per_class=per_class, seed=seed), _naive(per_class, seed)
    assert (made.samples_per_class, made.seed, made.name) == (per_class, seed, default_name(per_class, seed))
    assert made.mean.shape == (5, DIM)
    for label in range(4):
        mean, count, spread = expected[label]
        assert made.mean[label].tobytes() == mean.tobytes(), "the same sums in the same order"
        assert made.count[label] == count
        np.testing.assert_allclose(made.spread[label], spread, rtol=1e-6)
    assert [array.dtype.name for array in (made.mean, made.count, made.spread)] == ["float32", "int64", "float32"]


@pytest.mark.parametrize("per_class", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("trim", [None, 0.01, 0.1, 0.25, 0.49])
def test_medians_and_trimmed_means_are_those_of_numpy_and_scipy(
    view: TeacherView, per_class: int, trim: float | None
) -> None:
    """Of dimensions, over rows without a bad one among them; the spread is that of all rows from the centre."""
    how: dict[str, Any] = {"method": "median"} if trim is None else {"method": "trimmed", "trim": trim}
    made = average(view, "cls", samples_per_class=per_class, seed=3, **how)
    assert (made.method, made.trim) == (how["method"], trim)
    for label, rows in _chosen(per_class, 3).items():
        expected = np.median(rows, axis=0) if trim is None else trim_mean(rows, trim, axis=0)
        np.testing.assert_allclose(made.mean[label], expected, rtol=2e-7, atol=1e-7)
        spread = np.sqrt(((rows - expected) ** 2).sum(axis=1).mean())
        np.testing.assert_allclose(made.spread[label], spread, rtol=1e-6)
        assert made.count[label] == len(rows)
    assert np.isnan(made.mean[4]).all()
    assert made.mean.dtype == np.float32
    assert made.mean.shape == (5, DIM)


@pytest.mark.parametrize("encoding", ["float32", "bfloat16", "int8", "top2"])
@pytest.mark.parametrize("method", ["mean", "median", "trimmed"])
def test_every_encoding_is_averaged_as_it_is_read(tmp_path: Path, encoding: str, method: Method) -> None:
    output = OutputSpec("logits" if encoding == "top2" else "cls", DIM, encoding)
    view = _make(tmp_path / "s", spec=replace(SPEC, outputs=(output,)))
    made = average(view, output.name, samples_per_class=1000, seed=0, method=method, trim=0.2)
    reads = [view.read(slot, output.name) for slot in view.store.slots if slot.shard.split == "train"]
    rows, labels, status = (
        np.concatenate([getattr(read, part) for read in reads]) for part in ("rows", "labels", "status")
    )
    by: dict[str, Callable[[NDArray[np.float64]], Any]] = {
        "mean": lambda found: found.mean(axis=0),
        "median": lambda found: np.median(found, axis=0),
        "trimmed": lambda found: trim_mean(found, 0.2, axis=0),
    }
    for label in range(4):
        found = rows[(labels == label) & (status == 1)].astype(np.float64)
        np.testing.assert_allclose(made.mean[label], by[method](found), rtol=2e-7, atol=1e-7)


def test_trimming_leaves_outliers_out(view: TeacherView) -> None:
    """As many as the norm says, counted down; without that many rows none."""
    assert [cut(n, 0.1) for n in (1, 9, 10, 19, 20)] == [0, 0, 1, 1, 2]
    assert [cut(n, 0.4999999) for n in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]
    assert [cut(n, None) for n in (0, 1, 2, 3, 4, 5)] == [0, 0, 0, 1, 1, 2]
    rows = np.array([[1e30, 1], [1, -1e30], [2, 2], [-1e30, 3], [3, 1e30]], np.float32)
    made = trimmed_means([(rows, np.zeros(5, np.int64))], np.array([5]), np.array([1]), 2)
    np.testing.assert_array_equal(made, [[2, 2]])


def test_no_zero_is_negative() -> None:
    """Which of -0 and 0 is in the middle depends on how a machine sorts; the bits of a class set must not."""
    for values in ((-0.0, 0.0, -0.0), (0.0, -0.0, -0.0), (-0.0, -0.0, -0.0)):
        rows = np.array(values, np.float32)[:, None]
        made = trimmed_means([(rows, np.zeros(3, np.int64))], np.array([3]), np.array([1]), 1)
        assert made.tobytes() == np.zeros((1, 1)).tobytes()


@pytest.mark.parametrize("how", [{"method": "median"}, {"method": "trimmed", "trim": 0.2}])
@pytest.mark.parametrize("changes", [{"order": [5, 2, 4, 0, 3, 1, 6]}, {"capacity": 64}, {"names": tuple(SIZES)[::-1]}])
def test_medians_are_the_same_bits_however_the_rows_lie(
    view: TeacherView, tmp_path: Path, how: dict[str, Any], changes: dict[str, Any]
) -> None:
    first, other = (
        average(one, "cls", samples_per_class=7, seed=0, **how) for one in (view, _make(tmp_path / "s", **changes))
    )
    assert first.mean.tobytes() == other.mean.tobytes()
    np.testing.assert_array_equal(first.count, other.count)
    np.testing.assert_allclose(first.spread, other.spread, rtol=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 4])
def test_medians_are_the_same_bits_in_blocks_of_any_width(
    view: TeacherView, monkeypatch: pytest.MonkeyPatch, dims: int
) -> None:
    """Memory is bounded where a class is: some dimensions at a time."""
    whole = average(view, "cls", samples_per_class=1000, seed=0, method="median")
    held: list[int] = []

    def counted(rows: Any, count: Any, cuts: Any, dim: int) -> Any:
        held.append(dim)
        return trimmed_means(rows, count, cuts, dim)

    monkeypatch.setattr("embedkd.store.averaging.trimmed_means", counted)
    monkeypatch.setattr("embedkd.store.averaging.BLOCK_BYTES", 4 * dims * int(whole.count.sum()) + 3)
    other = average(view, "cls", samples_per_class=1000, seed=0, method="median")
    assert (whole.mean.tobytes(), whole.spread.tobytes()) == (other.mean.tobytes(), other.spread.tobytes())
    assert max(held) == dims
    assert sum(held) == DIM


def test_default_names_say_how(view: TeacherView) -> None:
    made = [
        average(view, "cls", samples_per_class=2, seed=-1, method=method, trim=0.2).name
        for method in ("mean", "median", "trimmed")
    ]
    assert made == ["n2-seed-1", "median-n2-seed-1", "trimmed0.2-n2-seed-1"]


def test_a_method_or_a_share_that_there_is_not(view: TeacherView) -> None:
    for trim in (0.0, 0.5, -0.1, 1.0, float("nan")):
        with pytest.raises(StoreError, match=r"share above 0 and below 0\.5"):
            average(view, "cls", samples_per_class=2, seed=0, method="trimmed", trim=trim)
    with pytest.raises(UnknownNameError, match="did you mean median"):
        average(view, "cls", samples_per_class=2, seed=0, method="medien")  # type: ignore[arg-type]


def test_empty_classes_are_refused_by_name_where_they_must_not_be(view: TeacherView, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^1 of 5 classes have no training row of cls: e\nnothing was written; .*NaN"):
        average(view, "cls", samples_per_class=2, seed=0, allow_empty=False)
    names = tuple(f"class-{i}" for i in range(15))
    many = _make(tmp_path / "many", classes=names, labels={0: 14})
    with pytest.raises(StoreError, match=r"14 of 15 classes .*: class-0, class-1, .*class-9 and 4 more\n"):
        average(many, "cls", samples_per_class=2, seed=0, allow_empty=False)
    unnamed = _make(tmp_path / "unnamed", classes=None, labels={0: 3, 1: 1})
    with pytest.raises(StoreError, match="2 of 4 classes have no training row of cls: 0, 2\n"):
        average(unnamed, "cls", samples_per_class=2, seed=0, allow_empty=False)
    full = _make(tmp_path / "full", classes=("a", "b", "c", "d"))
    assert average(full, "cls", samples_per_class=2, seed=0, allow_empty=False).count.all()


def test_a_class_with_fewer_uses_all_and_one_without_samples_is_nan(view: TeacherView) -> None:
    made = average(view, "cls", samples_per_class=5, seed=0)
    assert made.count.tolist() == [5, 5, 5, 3, 0]
    assert np.isnan(made.mean[4]).all()
    assert np.isnan(made.spread[4])
    assert np.isfinite(made.mean[:4]).all()


def test_one_sample_has_no_spread(view: TeacherView) -> None:
    assert average(view, "cls", samples_per_class=1, seed=0).spread[:4].tolist() == [0, 0, 0, 0]


def test_the_seed_chooses(view: TeacherView) -> None:
    first, again, other = (average(view, "cls", samples_per_class=4, seed=seed).mean for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes()
    assert (first[:3] != other[:3]).any(axis=1).all()
    np.testing.assert_array_equal(first[3], other[3], "all three samples, whatever the seed")


def test_the_same_bits_for_any_order_in_which_slots_were_written(view: TeacherView, tmp_path: Path) -> None:
    first = average(view, "cls", samples_per_class=7, seed=0)
    order = list(range(len(view.store.slots)))[::-1]
    other = average(_make(tmp_path / "s", order=order), "cls", samples_per_class=7, seed=0)
    for part in ("mean", "count", "spread"):
        assert getattr(first, part).tobytes() == getattr(other, part).tobytes()
    assert first.commits == other.commits


@pytest.mark.parametrize("changes", [{"capacity": 8}, {"capacity": 64}, {"names": tuple(SIZES)[::-1]}])
def test_the_choice_does_not_depend_on_how_shards_fill_slots(
    view: TeacherView, tmp_path: Path, changes: dict[str, Any]
) -> None:
    first = average(view, "cls", samples_per_class=7, seed=0)
    other = average(_make(tmp_path / "s", **changes), "cls", samples_per_class=7, seed=0)
    np.testing.assert_array_equal(first.count, other.count)
    np.testing.assert_allclose(first.mean, other.mean, rtol=1e-6, err_msg="but for the order of the sums")


def test_only_training_rows_are_averaged(view: TeacherView, tmp_path: Path) -> None:
    names = tuple(name for name in SIZES if "val" not in name)
    other = average(_make(tmp_path / "s", names=names), "cls", samples_per_class=1000, seed=0)
    assert average(view, "cls", samples_per_class=1000, seed=0).mean.tobytes() == other.mean.tobytes()


def test_a_hole_in_the_training_split_raises_and_one_elsewhere_does_not(view: TeacherView, tmp_path: Path) -> None:
    shutil.copytree(Path(view.store.storage.url), tmp_path / "s")
    commits = next((tmp_path / "s").glob("teachers/*/pass-*/commits"))
    (val,) = [slot.index for slot in view.store.slots if slot.shard.split == "val"]
    (commits / f"{val}.json").unlink()
    average(open_store(tmp_path / "s").teacher(), "cls", samples_per_class=2, seed=0)
    (commits / "1.json").unlink()
    with pytest.raises(HoleError, match=r"slot 1 \(train-0.tar\)"):
        average(open_store(tmp_path / "s").teacher(), "cls", samples_per_class=2, seed=0)


def test_classes_without_names_go_up_to_the_largest_label(tmp_path: Path) -> None:
    made = average(_make(tmp_path / "s", classes=None), "cls", samples_per_class=2, seed=0)
    assert made.count.tolist() == [2, 2, 2, 2]


def test_nothing_to_average(view: TeacherView, tmp_path: Path) -> None:
    unlabelled = _make(tmp_path / "s", labels={})
    with pytest.raises(StoreError, match="no training sample has a label and a row of cls"):
        average(unlabelled, "cls", samples_per_class=2, seed=0)
    with pytest.raises(StoreError, match="at least 1 sample a class, got 0"):
        average(view, "cls", samples_per_class=0, seed=0)
    with pytest.raises(UnknownNameError, match="unknown output of vit:x 'logits'"):
        average(view, "logits", samples_per_class=2, seed=0)


def test_a_label_beyond_all_reason_allocates_nothing(tmp_path: Path) -> None:
    view = _make(tmp_path / "s", classes=None, labels={0: 2**31 - 1})
    with pytest.raises(StoreError, match="expected labels below 1048576, got 2147483647"):
        average(view, "cls", samples_per_class=2, seed=0)


def test_more_than_the_format_holds_allocates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many class names are cheap to claim; times the width of an output they are not."""
    view = _make(tmp_path / "s", classes=tuple(f"class-{i}" for i in range(100)))
    monkeypatch.setattr("embedkd.store.schema.MAX_CHUNK_BYTES", 4 * 100 * DIM - 1)
    monkeypatch.setattr("embedkd.store.averaging._means", None)
    with pytest.raises(FormatError, match="expected chunks of up to 1999 bytes, got 2000"):
        average(view, "cls", samples_per_class=2, seed=0)


def test_many_candidates_are_forgotten_early_and_rightly(
    view: TeacherView, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Memory is bounded by classes, not by samples: with the bound at nothing the choice is the same."""
    first = average(view, "cls", samples_per_class=3, seed=0)
    monkeypatch.setattr("embedkd.store.averaging.SPARE_CANDIDATES", 0)
    other = average(view, "cls", samples_per_class=3, seed=0)
    assert first.mean.tobytes() == other.mean.tobytes()


def test_the_digest_names_the_objects_that_were_read(view: TeacherView, tmp_path: Path) -> None:
    """Another attempt on the same rows has the same one; another row has another."""
    first = average(view, "cls", samples_per_class=2, seed=0)
    other = _make(tmp_path / "s", labels={0: 0, 1: 1, 2: 2, 3: 4})
    assert average(other, "cls", samples_per_class=2, seed=0).commits != first.commits
    assert replace(average(view, "cls", samples_per_class=9, seed=1), name="x").commits == first.commits


def test_rank_is_what_the_norm_says() -> None:
    assert rank(0, 1) == int.from_bytes(hashlib.blake2b(b"\1" + b"\0" * 7, digest_size=8, key=b"0").digest(), "little")


@given(st.integers(-(2**63), 2**63), st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=30, unique=True))
def test_ranks_are_u64_and_differ(seed: int, keys: list[int]) -> None:
    ranks = [rank(seed, key) for key in keys]
    assert all(0 <= r < 2**64 for r in ranks)
    assert len(set(ranks)) == len(keys)
    assert ranks != [rank(seed + 1, key) for key in keys]
