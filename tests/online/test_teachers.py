"""What teachers in the loop say, and where their rows come from."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from embedkd.config import Config
from embedkd.errors import ConfigError, StoreError, TeacherError
from embedkd.heads.derived import write_logits
from embedkd.join import Batch, Target
from embedkd.online import OnlineTeachers
from embedkd.progress import Silent
from embedkd.records import key_hash
from embedkd.store import TeacherView
from embedkd.store.heads import Head, folds_of, write_head
from embedkd.training.plan import Plan
from tests.online.conftest import UNAUGMENTED, ConfigOf, Loaded
from tests.tiny import CLASSES, SPEC, TinyTeacher

CPU = torch.device("cpu")


def target(view: TeacherView, output: str, name: str = "") -> Target:
    return Target(name or output, view.store.storage.url, (view.teacher_id,), output)


def put_head(view: TeacherView, name: str = "linear") -> TeacherView:
    """A head of three maps that nobody could take for each other, and its logits in the store."""
    rng = np.random.default_rng(0)
    head = Head(
        name=name,
        kind="linear",
        output="pooled",
        weight=rng.normal(size=(3, CLASSES, 3)).astype(np.float32),
        bias=rng.normal(size=(3, CLASSES)).astype(np.float32),
        normalise=True,
        folds=2,
        seed=0,
        l2=1.0,
        made_from="0" * 64,
    )
    write_head(view, head)
    return write_logits(view, head, Silent())


def batches(config: Config, live: OnlineTeachers) -> Iterator[Batch]:
    plan = Plan.of(config)
    _, card = plan.build()
    return iter(plan.training_batches(card, 0, live))


def test_unmoved_images_give_the_stored_rows(view: TeacherView, config_of: ConfigOf, loaded: Loaded) -> None:
    live = OnlineTeachers([target(view, "cls"), target(view, "pooled", "other")], CPU)
    assert len(loaded.teachers) == 1  # of one model, whatever is read of it
    for batch in batches(config_of(*UNAUGMENTED, "loss_options.mse.output=pooled"), live):
        said = live.rows(batch)
        assert set(said) == {"cls", "other"}
        assert torch.equal(said["other"], batch.targets["pooled"])
        assert said["cls"].dtype == torch.float32
    assert loaded.teachers[0].batches == [4, 4, 4, 1] * 2


def test_mirrored_images_give_rows_of_mirrored_images(view: TeacherView, config_of: ConfigOf) -> None:
    live = OnlineTeachers([target(view, "cls")], CPU)
    mirrored = config_of("augment.crop_padding_px=0", "augment.flip=1", "train.allow_view_mismatch=true")
    plain = config_of(*UNAUGMENTED)
    for batch, still in zip(batches(mirrored, live), batches(plain, live), strict=True):
        assert batch.keys == still.keys
        (pixels,) = still.beside.values()
        assert torch.equal(live.rows(batch)["cls"], TinyTeacher().embed(pixels.flip(3), ["cls"])["cls"])
        assert not torch.equal(live.rows(batch)["cls"], live.rows(still)["cls"])


def test_a_head_says_of_a_sample_what_it_says_without_having_seen_it(view: TeacherView, config_of: ConfigOf) -> None:
    derived = put_head(view)
    kl = config_of(*UNAUGMENTED, f"train.teacher={derived.teacher_id}", losses={"kl": 1.0})
    live = OnlineTeachers([target(derived, "logits")], CPU)
    keys: set[str] = set()
    for batch in batches(kl, live):
        keys |= set(batch.keys)
        assert torch.allclose(live.rows(batch)["logits"], batch.targets["logits"], rtol=2e-3, atol=2e-3)
    hashes = np.array([key_hash(key) for key in sorted(keys)], np.uint64)
    assert len(set(folds_of(hashes, 2, 0).tolist())) == 2  # or all maps could be one


def test_a_head_whose_base_or_map_is_gone(view: TeacherView, monkeypatch: pytest.MonkeyPatch) -> None:
    derived = put_head(view)
    with monkeypatch.context() as patch:
        patch.setattr("embedkd.online.teachers.head_names", lambda view: [])
        with pytest.raises(StoreError, match=r"does not hold the head that .*linear was made by; fit it again"):
            OnlineTeachers([target(derived, "logits")], CPU)
    monkeypatch.setattr(type(view.store), "teachers", {derived.teacher_id: derived.spec})
    with pytest.raises(StoreError, match=r"is a head on rows of packaged:efficientnet-lite0, which .* does not hold"):
        OnlineTeachers([target(derived, "logits")], CPU)


def test_captions_are_not_said_again(view: TeacherView) -> None:
    with pytest.raises(ConfigError, match="these read classes or none"):
        OnlineTeachers([target(view, "text")], CPU)


def test_one_place_of_weights_is_not_for_two_models(view: TeacherView, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(view.spec, weights_sha256="1" * 64, name="packaged:other")
    of = {view.teacher_id: view.spec, other.teacher_id: other}
    monkeypatch.setattr("embedkd.store.view.read_spec", lambda store, teacher_id: of[teacher_id])
    monkeypatch.setattr(type(view.store), "teacher_ids", sorted(of))
    both = [target(view, "cls"), replace(target(view, "cls", "b"), teacher_ids=(other.teacher_id,))]
    with pytest.raises(ConfigError, match=r"train\.online_weights: expected one teacher to load by it, got packaged:"):
        OnlineTeachers(both, CPU, weights="x")


def test_another_model_under_the_same_name(view: TeacherView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyTeacher, "spec", replace(SPEC, weights_sha256="2" * 64))
    with pytest.raises(TeacherError, match="is not the teacher of this store: weights_sha256 differ"):
        OnlineTeachers([target(view, "cls")], CPU)


@pytest.mark.gpu
def test_rows_come_to_where_the_student_is(view: TeacherView, config_of: ConfigOf) -> None:
    live = OnlineTeachers([target(view, "cls")], torch.device("cuda"))
    batch = next(batches(config_of(*UNAUGMENTED), live))
    assert live.rows(batch.to("cuda"))["cls"].device.type == "cuda"
