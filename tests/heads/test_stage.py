"""From a store with rows to a store with logits."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkd.config import AverageConfig
from embedkd.config.tuning import HeadConfig
from embedkd.errors import ConflictError, HoleError, StoreError, UnknownNameError
from embedkd.heads import HeadResult, make_head
from embedkd.heads.derived import derived_spec
from embedkd.heads.linear import L2_GRID
from embedkd.progress import Silent
from embedkd.records import RowStatus, TeacherSpec, ViewSpec, key_hash
from embedkd.store import Pass, PassWriter, SlotRows, TeacherView, open_store, set_names
from embedkd.store.heads import folds_of, head_names, is_derived, read_head
from embedkd.store.schema import is_teacher_id
from tests.tiny import lasting

MakeStore = Callable[..., TeacherView]


def run(view: TeacherView, progress: Silent | None = None, **options: Any) -> HeadResult:
    config = HeadConfig(store=view.store.storage.url, iterations=60, device="cpu", **options)
    return make_head(config, AverageConfig(), progress)


def logits_of(view: TeacherView, split: str) -> tuple[Any, Any, Any]:
    """Logits, labels and status of all rows of a split."""
    reads = [view.read(slot, "logits") for slot in view.store.slots if slot.shard.split == split]
    rows, labels, status = (np.concatenate([getattr(r, part) for r in reads]) for part in ("rows", "labels", "status"))
    return rows, labels, status


def derived_of(result: HeadResult) -> TeacherView:
    return open_store(result.store).teacher(result.derived_id)


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def test_logits_become_rows_of_a_derived_teacher(view: TeacherView) -> None:
    watch = Lines()
    result = run(view, watch)
    derived = derived_of(result)
    assert derived.spec.name == result.derived == "openclip:Toy+linear@some_tag"
    assert derived.teacher_id.startswith("openclip-toy-linear-")
    assert is_teacher_id(derived.teacher_id)
    assert derived.spec.derived_from == f"{view.spec.name} {view.spec.fingerprint}"
    assert [o.name for o in derived.spec.outputs] == ["logits"]
    assert derived.holes("logits") == ()
    assert set_names(derived, "logits") == ["n100-seed0"]
    for split in ("train", "val", "test"):
        rows, labels, status = logits_of(derived, split)
        base = [view.read(slot, "image") for slot in view.store.slots if slot.shard.split == split]
        np.testing.assert_array_equal(labels, np.concatenate([r.labels for r in base]))
        np.testing.assert_array_equal(status, np.concatenate([r.status for r in base]))
        counted = (status == RowStatus.OK) & (labels >= 0)
        share = (rows[counted].argmax(1) == labels[counted]).mean()
        assert share == pytest.approx(getattr(result, f"{split}_top1"))
        assert share > 0.6, "four classes, noisy"
    assert result.l2 in L2_GRID
    assert any("has the lowest cross-entropy on the validation split" in line for line in watch.lines)
    assert result.temperature is not None


def test_views_get_the_logits_of_their_own_rows_out_of_fold(view: TeacherView) -> None:
    seen = [replace(view.spec, view=ViewSpec(0, index, 0.35, 0.5)) for index in range(2)]
    for at, (spec, outputs) in enumerate(zip(seen, (("image", "cls"), ("image",)), strict=True)):
        writer = PassWriter(view.store, spec, Pass(outputs, 8, 1, "x"))
        for slot in view.store.slots:
            rows = {name: view.read(slot, name) for name in outputs}
            said = {name: read.rows.astype(np.float32) * 2 ** (at + 1) for name, read in rows.items()}
            read = rows["image"]
            source = {"url": slot.shard.url, "bytes": slot.shard.size_bytes, "blake2b": slot.shard.blake2b}
            status = dict.fromkeys(outputs, read.status)
            writer.write(slot, SlotRows(read.keys, read.labels, read.places, said, status, source), {})
    result = run(view)
    store = open_store(result.store)
    derived = store.views_of(result.derived_id)
    head = read_head(view, "linear")
    assert (result.views, len(derived), str(result).count("and of 2 views")) == (2, 2, 1)
    assert [store.teachers[name].view for name in derived] == [spec.view for spec in seen]
    assert store.teachers[derived[0]].plain.fingerprint == store.teachers[result.derived_id].fingerprint
    for at, name in enumerate(derived):
        for slot in store.slots:
            read, base = store.read(slot, "logits", teacher=name), view.read(slot, "image")
            expected = head.logits(base.rows.astype(np.float32) * 2 ** (at + 1), base.keys, slot.shard.split)
            ok = read.status == RowStatus.OK
            np.testing.assert_array_equal(read.rows[ok], expected[ok].astype(np.float16))
    assert set_names(store.teacher(derived[0]), "logits") == []
    watch = Lines()
    other = run(view, watch, name="other", output="cls")
    assert (other.views, watch.lines[-1]) == (1, "no logits of 1 of 2 views: they have no cls")
    with pytest.raises(
        StoreError, match=r"^a head is fitted to whole images, and .* is a view; name openclip:Toy@some"
    ):
        run(view, teacher=seen[0].teacher_id)


def test_a_training_row_never_meets_a_map_that_saw_its_fold(make_store: MakeStore) -> None:
    """With labels drawn at random, whoever has seen a row's label knows it, and whoever has not is at chance."""

    view = make_store(labels=lambda key, label: key_hash(key) % 4, splits=("train",), noise=1.0)
    result = run(view, l2=1e-5, folds=5)
    head = read_head(view, "linear")
    seen = hits = rows = 0
    for slot in view.store.slots:
        read = view.read(slot, "image")
        counted = (read.status == RowStatus.OK) & (read.labels >= 0)
        values, keys, labels = read.rows[counted], read.keys[counted], read.labels[counted]
        seen += int((head.logits(values, keys, "test").argmax(1) == labels).sum())
        hits += int((head.logits(values, keys, "train").argmax(1) == labels).sum())
        rows += len(labels)
    assert result.train_top1 == pytest.approx(hits / rows)
    assert hits / rows < 0.25 + 3 * np.sqrt(0.25 * 0.75 / rows)
    assert seen / rows > hits / rows + 0.1


def test_the_labels_of_a_fold_do_not_reach_its_map(make_store: MakeStore) -> None:
    """The exact form of it: other labels in fold 2 change every map but that of fold 2."""

    def in_fold(key: str) -> bool:
        return bool(folds_of(np.array([key_hash(key)], np.uint64), 3, 0)[0] == 2)

    def changed(key: str, label: int) -> int:
        return (label + 1) % 4 if key.startswith("train") and in_fold(key) else label

    first, second = make_store("a.zarr"), make_store("b.zarr", labels=changed)
    heads = []
    for view in (first, second):
        run(view, l2=0.01, folds=3)
        heads.append(read_head(view, "linear"))
    same = [np.array_equal(heads[0].weight[m], heads[1].weight[m]) for m in range(4)]
    assert same == [False, False, False, True]
    assert np.array_equal(heads[0].bias[3], heads[1].bias[3])


@pytest.mark.parametrize("given", [None, 0.01])
def test_without_a_validation_split_the_penalty_is_chosen_on_rows_that_no_map_sees(
    make_store: MakeStore, given: float | None
) -> None:
    watch = Lines()
    result = run(make_store(splits=("train", "test")), watch, l2=given)
    chosen = any("on the held-out training rows" in line for line in watch.lines)
    assert chosen == (given is None)
    assert (result.val_top1, result.temperature) == (None, None)
    assert result.l2 == given or given is None


def test_the_strength_with_the_lowest_loss_is_taken(view: TeacherView) -> None:
    result = run(view)
    assert result.l2_losses[f"{result.l2:g}"] == min(result.l2_losses.values())
    assert len(result.l2_losses) == len(L2_GRID)


def test_the_same_command_twice_changes_nothing(view: TeacherView) -> None:
    folder = Path(view.store.storage.url)
    first = run(view)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    watch = Lines()
    second = run(view, watch)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert any("is there already" in line for line in watch.lines)
    assert replace(first, l2_losses={}) == second


def test_two_writers_and_stops_leave_the_same_bytes(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, other = make_store("a.zarr", capacity=32), make_store("b.zarr", capacity=32)
    run(whole)
    write, calls = PassWriter.write, []

    def stopping(self: PassWriter, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) in {3, 5}:
            raise KeyboardInterrupt
        return write(self, *arguments)

    monkeypatch.setattr(PassWriter, "write", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(other)
    run(other)
    slots = len(whole.store.slots)
    assert len(calls) == slots + 2, "no slot was computed twice but those that were cut off"
    assert lasting(Path(whole.store.storage.url)) == lasting(Path(other.store.storage.url))


@pytest.mark.parametrize(
    ("options", "fact"),
    [({"folds": 4}, "folds"), ({"seed": 1}, "seed"), ({"l2": 0.5}, "l2"), ({"output": "cls"}, "output")],
)
def test_another_head_of_the_same_name_is_refused(view: TeacherView, options: dict[str, Any], fact: str) -> None:
    run(view)
    with pytest.raises(StoreError, match=rf"head 'linear' .* another .*{fact}.*; give the new one another --name"):
        run(view, **options)
    result = run(view, name="second", **options)
    assert head_names(view) == ["linear", "second"]
    assert result.derived == "openclip:Toy+second@some_tag"


def test_other_rows_under_the_same_name_are_refused(make_store: MakeStore) -> None:
    first, second = make_store("a.zarr"), make_store("b.zarr", noise=1.0)
    run(first)
    folder = f"teachers/{first.teacher_id}/heads"
    shutil.copytree(Path(first.store.storage.url) / folder, Path(second.store.storage.url) / folder)
    with pytest.raises(StoreError, match="another made_from"):
        run(second)


def test_zero_shot_logits_are_scaled_cosines(view: TeacherView) -> None:
    result = run(view, kind="zero-shot")
    texts = view.class_set("prompts-clip", "text").mean.astype(np.float64)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    derived = derived_of(result)
    assert (result.head, result.output, result.l2) == ("zero-shot", "image", None)
    for slot in view.store.slots:
        images = view.read(slot, "image").rows.astype(np.float64)
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        np.testing.assert_allclose(derived.read(slot, "logits").rows, 20 * images @ texts.T - 1.5, rtol=2e-3, atol=1e-2)
    assert result.test_top1 is not None
    assert result.test_top1 > 0.6


def test_a_row_without_length_is_marked(view: TeacherView) -> None:
    run(view, kind="zero-shot")
    head = read_head(view, "zero-shot")
    rows = np.zeros((2, 6), np.float16)
    rows[1] = 1
    said = head.logits(rows, np.zeros(2, np.uint64), "val")
    assert np.isnan(said[0]).all()
    assert np.isfinite(said[1]).all()


def test_zero_shot_needs_texts_of_every_class(make_store: MakeStore, plain_spec: TeacherSpec) -> None:
    with pytest.raises(StoreError, match=r"no common space of image and text with a logit scale"):
        run(make_store("a.zarr", spec=plain_spec, names=None), kind="zero-shot")
    view = make_store("b.zarr")
    with pytest.raises(UnknownNameError, match="did you mean prompts-clip"):
        run(view, kind="zero-shot", class_set="prompts-clap")
    assert head_names(view) == []


def test_without_a_name_the_teacher_is_the_one_that_no_head_made(view: TeacherView) -> None:
    first, second = run(view), run(view, name="again")
    assert first.teacher == second.teacher == view.spec.name
    store = open_store(view.store.storage.url)
    made = {name for name in store.teacher_ids if is_derived(TeacherView(store, name).spec)}
    assert set(store.teacher_ids) - made == {view.teacher_id}


def test_a_head_on_a_head_reads_its_logits(view: TeacherView) -> None:
    first = run(view)
    second = run(view, teacher=first.derived_id, l2=0.1)
    assert (second.output, second.derived) == ("logits", "openclip:Toy+linear+linear@some_tag")


def test_unnamed_classes_are_counted_by_the_labels(make_store: MakeStore) -> None:
    assert run(make_store(names=None)).classes == 4


def test_rows_beyond_the_bound_are_left_out_by_hash(view: TeacherView) -> None:
    watch = Lines()
    result = run(view, watch, max_rows=50)
    assert any(line.startswith("50 of 86 labelled training rows are fitted, chosen by hash") for line in watch.lines)
    assert result.train_top1 is not None
    assert derived_of(result).holes("logits") == ()


def test_what_is_missing_is_said(make_store: MakeStore) -> None:
    unlabelled = make_store("a.zarr", labels=lambda key, label: -1)
    with pytest.raises(StoreError, match=r"expected labels of 1 to 65536 classes .* no label"):
        run(unlabelled)
    with pytest.raises(UnknownNameError, match="did you mean image"):
        run(unlabelled, output="imag")
    holed = make_store("b.zarr")
    (commit,) = Path(holed.store.storage.url).glob("teachers/*/pass-*/commits/0.json")
    commit.unlink()
    with pytest.raises(HoleError, match="run embedkd precompute again"):
        run(holed)


def test_logits_of_another_writer_are_a_conflict(view: TeacherView) -> None:
    result = run(view)
    derived = derived_of(result)
    base = Path(view.store.storage.url) / "teachers" / derived.teacher_id
    for commit in base.glob("pass-*/commits/*.json"):
        commit.unlink()
    first, second = (base / "logits" / "c" / number / "0" for number in "01")
    first.write_bytes(second.read_bytes())
    with pytest.raises(ConflictError, match="is there with other values"):
        run(view)


def test_the_derived_identity_covers_head_and_teacher(view: TeacherView) -> None:
    run(view)
    head = read_head(view, "linear")
    base = derived_spec(view.spec, head)
    others = [
        derived_spec(view.spec, replace(head, weight=head.weight + 1)),
        derived_spec(view.spec, replace(head, bias=head.bias + 1)),
        derived_spec(view.spec, replace(head, seed=1)),
        derived_spec(view.spec, replace(head, output="cls")),
        derived_spec(replace(view.spec, weights_sha256="1" * 64), head),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 6
    assert derived_spec(replace(view.spec, source="elsewhere"), head).fingerprint == base.fingerprint
    assert derived_spec(view.spec, replace(head, name="other")).fingerprint == base.fingerprint
