"""Stores in every encoding: written by one and by two, read, merged, cut, appended to, copied, compared, repaired."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedkd.errors import ConflictError, IntegrityError
from embedkd.records import RowStatus, Shard
from embedkd.storage import LocalStorage
from embedkd.store import (
    EmbeddingStore,
    MeasuredError,
    Pass,
    PassWriter,
    Selection,
    SlotRows,
    append_shards,
    average,
    check_objects,
    check_output,
    copy_store,
    diff_stores,
    merge_stores,
    open_store,
    repair_store,
    seal_store,
    subset_store,
)
from embedkd.store.commits import ObjectRecord
from embedkd.store.documents import seal
from embedkd.store.encoding import encode_chunk
from embedkd.store.quantising import encode
from tests.store.conftest import ENCODED as SPEC
from tests.store.conftest import ENCODED_OUTPUTS as OUTPUTS
from tests.store.samples import SHARDS, contents, files, make, rows_of

TEACHERS = {SPEC: (OUTPUTS,)}


@pytest.fixture
def sound(encoded_store: Path) -> Path:
    """Nobody may change it."""
    return encoded_store


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "s"))


def test_a_reader_gets_what_was_encoded(sound: Path) -> None:
    view = open_store(sound).teacher()
    for slot in view.store.slots:
        said = rows_of(slot, SPEC, OUTPUTS)
        for output in OUTPUTS:
            spec = SPEC.output(output)
            assert spec is not None
            made, read = encode(spec, said.outputs[output], said.status[output]), view.read(slot, output)
            assert read.rows.tobytes() == made.rows.decode().tobytes()
            assert read.status.tobytes() == made.status.tobytes()
            assert not read.rows.flags.writeable
            commit = view.commit(slot, output)
            assert commit is not None
            assert commit.error[output] == made.error


def test_each_encoding_is_another_teacher_and_none_can_be_mixed(folder: Path) -> None:
    plain = SPEC.encoded(dict.fromkeys(SPEC.encodings, "float16"))
    others = [plain.encoded({name: encoding}) for name, encoding in SPEC.encodings.items() if encoding != "float16"]
    ids = {spec.teacher_id for spec in (SPEC, plain, *others)}
    assert len(ids) == 5
    store = open_store(folder)
    PassWriter(store, plain, Pass(("cls",), 8, 1, "a processor"))
    assert store.teacher_ids == tuple(sorted((SPEC.teacher_id, plain.teacher_id)))


def test_the_errors_of_all_slots_are_summed_up_and_sealed(folder: Path) -> None:
    view = open_store(folder).teacher()
    commits = {output: [view.committed(slot, output) for slot in view.store.slots] for output in OUTPUTS}
    expected = {o: MeasuredError.joined(commit.error[o] for commit in commits[o]) for o in OUTPUTS}
    assert {output: view.error(output) for output in OUTPUTS} == expected
    assert all(expected[output].rows == 29 for output in OUTPUTS)
    assert 0 < expected["image"].max < expected["pooled"].max < expected["cls"].max < 1e-3 < expected["logits"].max < 1
    report = seal_store(LocalStorage(folder))
    (passes,) = report.errors.values()
    assert list(passes.values()) == [expected]
    sealed = open_store(folder)
    assert sealed.catalogue is not None
    assert {output: sealed.teacher().error(output) for output in OUTPUTS} == expected
    (entry,) = sealed.catalogue.teachers[SPEC.teacher_id].passes.values()
    assert entry.error == expected
    assert contents(sealed) == contents(view.store)


@pytest.mark.parametrize("capacity", [4, 8, 16, 32])
def test_merged_parts_say_the_same_but_for_int8_that_is_scaled_anew(sound: Path, tmp_path: Path, capacity: int) -> None:
    make(tmp_path / "a", TEACHERS, SHARDS[:3], capacity=8)
    make(tmp_path / "b", TEACHERS, SHARDS[2:], capacity=16)
    parts = [LocalStorage(tmp_path / name) for name in ("a", "b")]
    merge_stores(parts, LocalStorage(tmp_path / "m"), capacity=capacity)
    merged = open_store(tmp_path / "m")
    ours, whole = contents(merged), contents(open_store(sound))
    for place, arrays in ours.items():
        if "cls" not in place:
            assert arrays == whole[place]
        assert arrays[1:] == whole[place][1:], "status, keys, labels and places"
    bounds_hold(merged)


def bounds_hold(store: EmbeddingStore, outputs: tuple[str, ...] = OUTPUTS) -> None:
    """No commit says less than what was lost of what the teacher said."""
    view = store.teacher()
    for slot in store.slots:
        said = rows_of(slot, SPEC, OUTPUTS)
        for output in outputs:
            read, commit = view.read(slot, output), view.committed(slot, output)
            ok = np.flatnonzero(read.status == RowStatus.OK)
            real = MeasuredError.of(read.stored.take(ok).distances(said.outputs[output][ok]))
            told = commit.error[output]
            assert real.rows == told.rows
            assert real.mean <= told.mean * 1.01
            assert real.max <= told.max * 1.01
            above = [np.cumsum(error.histogram[::-1]) for error in (real, told)]
            assert (above[0] <= above[1]).all()


def test_a_subset_keeps_what_is_stored_and_never_tells_less_than_it_lost(sound: Path, tmp_path: Path) -> None:
    store = open_store(sound)
    subset_store(store.storage, LocalStorage(tmp_path / "sub"), Selection(labels=frozenset({1, 2})))
    small = open_store(tmp_path / "sub")
    before, after = store.teacher(), small.teacher()
    for slot in small.slots:
        (origin,) = [s for s in store.slots if (s.shard, s.start) == (slot.shard, slot.start)]
        for output in OUTPUTS:
            was, now = before.read(origin, output), after.read(slot, output)
            kept = now.status == RowStatus.OK
            np.testing.assert_array_equal(kept, (was.status == RowStatus.OK) & np.isin(was.labels, [1, 2]))
            assert now.rows[kept].tobytes() == was.rows[kept].tobytes()
    bounds_hold(small)


def test_append_copy_verify_and_average(folder: Path, tmp_path: Path) -> None:
    storage = LocalStorage(folder)
    before = contents(open_store(folder))
    append_shards(storage, (Shard("train-9.tar", "train", 4_096, 10, "9" * 64),))
    store = open_store(folder)
    scale = json.loads((folder / "teachers" / SPEC.teacher_id / "cls_scale/zarr.json").read_bytes())
    assert scale["shape"] == [len(store.slots), 6]
    writer = PassWriter(store, SPEC, Pass(OUTPUTS, 8, 1, "a processor"))
    for slot in store.slots:
        if not writer.is_committed(slot):
            writer.write(slot, rows_of(slot, SPEC, OUTPUTS), {})
    seal_store(storage)
    store = open_store(folder)
    found = contents(store)
    assert all(found[place] == arrays for place, arrays in before.items())
    copy_store(storage, LocalStorage(tmp_path / "copy"))
    copied = open_store(tmp_path / "copy")
    assert contents(copied) == found
    assert files(tmp_path / "copy") == files(folder)
    for output in OUTPUTS:
        check = check_output(copied.teacher(), output)
        assert (check.problems, check.committed, check.usable) == ((), len(store.slots), 37)
        made = average(copied.teacher(), output, samples_per_class=100, seed=0)
        reads = [store.teacher().read(slot, output) for slot in store.slots if slot.shard.split == "train"]
        dense, labels = (np.concatenate([getattr(read, name) for read in reads]) for name in ("rows", "labels"))
        ok = np.concatenate([read.status == RowStatus.OK for read in reads])
        for label in range(3):
            mean = dense[ok & (labels == label)].astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(made.mean[label], mean, rtol=1e-5, atol=1e-6)
    assert check_objects(copied) == ()


def test_comparing_an_encoded_store_with_a_plain_one(sound: Path, tmp_path: Path) -> None:
    plain = SPEC.encoded(dict.fromkeys(SPEC.encodings, "float32"))
    make(tmp_path / "p", {plain: (OUTPUTS,)}, capacity=16)
    pairs = [(SPEC.teacher_id, plain.teacher_id)]
    found = diff_stores(LocalStorage(sound), LocalStorage(tmp_path / "p"), pairs=pairs)
    errors = {output: open_store(sound).teacher().error(output) for output in OUTPUTS}
    for one in found.outputs:
        assert one.rows == 29
        # The rows of the plain store are what the encoded ones were made of: the difference is the recorded error.
        assert 1 - one.cosine_min == pytest.approx(errors[one.output].max, rel=0.01)
        assert 1 - one.cosine_mean == pytest.approx(errors[one.output].mean, rel=0.02)
    same = diff_stores(LocalStorage(sound), LocalStorage(sound))
    assert all(one.equal == one.rows == 29 and one.cosine_min == 1 for one in same.outputs)


@pytest.mark.parametrize("damage", ["remove", "flip", "another slot's"])
def test_every_object_that_is_damaged_is_found_and_made_again(folder: Path, damage: str) -> None:
    names = [n for n in files(folder) if "/c/" in n and n.startswith("teachers/")]
    assert {n.split("/")[2] for n in names} == {
        *("cls_scale", "cls", "cls_status", "image", "image_status", "pooled", "pooled_status"),
        *("logits_topk_index", "logits_topk_value", "logits_status"),
    }
    sound = files(folder)
    for name in sorted(n for n in names if n.split("/c/")[1].startswith("1")):
        path = folder / name
        if damage == "remove":
            path.unlink()
        elif damage == "flip":
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 4
            path.write_bytes(bytes(data))
        else:
            other = name.replace("/c/1", "/c/0")
            if sound[other] == sound[name]:
                continue
            path.write_bytes(sound[other])
        output = name.split("/")[2].split("_")[0]
        with pytest.raises(IntegrityError):
            open_store(folder).teacher().read(1, output)
        assert any("slot 1" in problem for problem in check_output(open_store(folder).teacher(), output).problems)
        report = repair_store(LocalStorage(folder))
        assert [Path(key).name for key in report.commits] == ["1.json"]
        writer = PassWriter(open_store(folder), SPEC, Pass(OUTPUTS, 8, 1, "a processor"))
        slot = open_store(folder).slots[1]
        writer.write(slot, rows_of(slot, SPEC, OUTPUTS), {})
        assert {n: data for n, data in files(folder).items() if "/commits/" not in n} == {
            n: data for n, data in sound.items() if "/commits/" not in n
        }


FORGERIES: dict[str, tuple[int, tuple[int, ...], float, str]] = {
    "a negative scale": (0, (0, 2), -1.0, "cls of slot 0 has a scale"),
    "a code of no row": (1, (1, 2), -128, "cls of slot 0 does not fit its status"),
    "an index outside": (7, (1, 0), 7, "logits of slot 0 has an index"),
    "an index twice": (7, (1,), 1, "logits of slot 0 has an index"),
    "a probability above 1": (8, (1, 0), 0.5, "logits of slot 0 has log-probabilities"),
    "values that rise": (8, (1, 0), -9.0, "logits of slot 0 has log-probabilities"),
    "a NaN of bfloat16": (5, (1, 1), 0x7FC1, "pooled of slot 0 does not fit its status"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_a_stranger_wrote_and_committed_is_refused(folder: Path, forgery: str) -> None:
    array, at, value, says = FORGERIES[forgery]
    (path,) = (folder / "teachers").glob("*/pass-*/commits/0.json")
    view = open_store(folder).teacher()
    schemas = [schema for output in OUTPUTS for schema in view.output_schemas(output)]
    schema = schemas[array]
    output = says.split(" ", 1)[0]
    stored = view.read(0, output).stored.arrays()
    changed = np.array(stored[array if array < 2 else array - {"logits": 7, "pooled": 5}[output]])
    changed[at] = value
    data = encode_chunk(schema, changed)
    (folder / schema.chunk_key(0)).write_bytes(data)
    document = json.loads(path.read_bytes())
    del document["digest"]
    document["objects"][3 + array] = ObjectRecord.of(schema.chunk_key(0), data).to_json()
    path.write_bytes(seal(document))
    with pytest.raises(IntegrityError, match=says):
        open_store(folder).teacher().read(0, output)


# Two writers on two machines: each stops after any number of its objects, and the other one goes on.


def nearly(rows: SlotRows) -> SlotRows:
    """What another machine says: other last bits."""
    rng = np.random.default_rng(0)
    noise = {o: (said + rng.normal(size=said.shape) * 2e-4).astype(np.float32) for o, said in rows.outputs.items()}
    return replace(rows, outputs=noise)


def test_a_writer_goes_on_by_what_another_has_put_of_its_rows(sound: Path, tmp_path: Path) -> None:
    """Wherever the first one stopped, what is read fits what was said: no codes of one with the scale of the other."""
    slot = open_store(sound).slots[0]
    name = next((sound / "teachers").glob("*/pass-*/commits/0.json")).relative_to(sound)
    keys = [record["key"] for record in json.loads((sound / name).read_bytes())["objects"]]
    said = rows_of(slot, SPEC, OUTPUTS)
    codes = set()
    for stop in range(3, len(keys) + 1):
        folder = Path(shutil.copytree(sound, tmp_path / str(stop)))
        (folder / name).unlink()
        for key in keys[stop:]:
            (folder / key).unlink()
        before = {key: (folder / key).read_bytes() for key in keys[:stop]}
        writer = PassWriter(open_store(folder), SPEC, Pass(OUTPUTS, 8, 1, "a processor"))
        made = writer.write(slot, nearly(said), {"by": "the other"})
        assert [record.key for record in made.objects] == keys
        assert all((folder / key).read_bytes() == data for key, data in before.items()), "nothing was overwritten"
        view = open_store(folder).teacher()
        for output in OUTPUTS:
            read = view.read(0, output)
            ok = np.flatnonzero(read.status == RowStatus.OK)
            real = read.stored.take(ok).distances(said.outputs[output][ok]).max()
            assert real <= (np.sqrt(made.error[output].max) + 1e-3) ** 2
        codes.add(view.read(0, "cls").stored.arrays()[1].tobytes())
    assert len(codes) > 1, "the other writer's codes differ from the first one's"


@pytest.mark.parametrize("output", OUTPUTS)
def test_other_rows_are_a_conflict_at_any_array(folder: Path, output: str) -> None:
    (commit,) = (folder / "teachers").glob("*/pass-*/commits/0.json")
    commit.unlink()
    store = open_store(folder)
    said = rows_of(store.slots[0], SPEC, OUTPUTS)
    changed = dict(said.outputs)
    changed[output] = 2 * changed[output][:, ::-1]
    schemas = [*open_store(folder).teacher().output_schemas(output)[:-1]]
    while schemas:
        before = files(folder)
        writer = PassWriter(store, SPEC, Pass(OUTPUTS, 8, 1, "a processor"))
        with pytest.raises(ConflictError, match=f"{output}.* is there with other values"):
            writer.write(store.slots[0], replace(said, outputs=changed), {})
        assert before.items() <= files(folder).items(), "nothing that was there has changed"
        (folder / schemas.pop().chunk_key(0)).unlink()


@pytest.mark.parametrize("sealed", [False, True])
def test_a_slot_of_two_passes_is_counted_once(tmp_path: Path, sealed: bool) -> None:
    make(tmp_path / "s", {SPEC: (("cls",), ("cls", "image"))})
    if sealed:
        seal_store(LocalStorage(tmp_path / "s"))
    view = open_store(tmp_path / "s").teacher()
    assert len(view.passes) == 2
    assert view.error("cls").rows == view.error("image").rows == 29
