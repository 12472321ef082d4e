"""Stored views: what a teacher says of fixed crops, computed beside what it says of whole images."""

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embedkd.config import Config, DataConfig
from embedkd.errors import ConfigError, Interrupted, StoreError, TeacherError
from embedkd.precompute import Job, find_finished, precompute
from embedkd.precompute.rounds import rounds
from embedkd.precompute.worker import Transform, decode_into
from embedkd.records import DecodePolicy, Preprocess, ViewSpec
from embedkd.sources.images import decode_image
from embedkd.sources.views import crop_view
from embedkd.store import EmbeddingStore, open_store
from embedkd.teachers.squash import Squash
from tests.cli.conftest import invoke
from tests.precompute.zoo import ONE, OTHER, Watch, Zoo, changed
from tests.tiny import PX, SPEC, TinyTeacher, lasting, picture, pixels_of, to_pixels, write_shard


@pytest.fixture
def one(config: Config) -> Config:
    """One teacher, and two views of it."""
    return changed(config, teachers=(ONE,), outputs=("cls",), views=2, view_min_crop_area=0.2)


def views_in(store: EmbeddingStore) -> list[ViewSpec | None]:
    return [store.teachers[name].view for name in store.views_of(store.teacher().teacher_id)]


def test_views_are_what_the_teacher_says_of_the_parts_of_the_images(one: Config) -> None:
    store = open_store(precompute(one).store)
    assert views_in(store) == [ViewSpec(0, index, 0.2, 0.5) for index in range(2)]
    keys = {0: [f"train-0/{i:03d}" for i in range(7)], 2: [f"val-0/{i:03d}" for i in range(4)]}
    seen = []
    for teacher_id in store.views_of(store.teacher().teacher_id):
        view = store.teachers[teacher_id].view
        assert view is not None
        for slot, names in keys.items():
            parts = [crop_view(Image.fromarray(pixels_of(key)), view, key) for key in names]
            resized = [np.asarray(part.resize((PX, PX), Image.Resampling.NEAREST), np.float32) for part in parts]
            pixels = torch.from_numpy(np.stack(resized).transpose(0, 3, 1, 2) / 255)
            said = TinyTeacher().embed(pixels, ["cls"])["cls"].numpy().astype(np.float16)
            read = store.read(slot, "cls", teacher=teacher_id)
            assert (read.rows == said).all()
            seen.append(said[:4].tobytes())
    assert len(set(seen)) == len(seen)


def test_images_are_decoded_once_for_all_views_and_class_means_are_of_whole_images(
    one: Config, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Counter[bytes]()

    def counted(data: bytes, policy: DecodePolicy) -> Image.Image:
        decoded[data] += 1
        return decode_image(data, policy)

    monkeypatch.setattr("embedkd.precompute.worker.decode_image", counted)
    watch = Watch()
    result = precompute(one, watch)
    assert set(decoded.values()) == {1}
    assert len(decoded) == 16
    assert (watch.steps["precompute"], watch.done) == ((48, "rows"), 48)
    assert len(zoo.options) == 1  # loaded once
    assert zoo.teachers[ONE].batches[0] == 3  # and tried once for the batch that fits
    assert sum(zoo.teachers[ONE].batches[1:]) == 48
    (entry,) = result.teachers
    assert (result.rows, result.computed, result.wanted, entry.computed, entry.views) == (16, 48, 48, 48, 2)
    store = open_store(result.store)
    plain = store.teacher()
    assert (plain.spec.view, plain.class_set(None, "cls").count.tolist()) == (None, [5, 4, 3])
    assert len(list(Path(result.store).glob("teachers/*/classes"))) == 1


def test_adding_views_later_leaves_what_all_at_once_leave(one: Config, zoo: Zoo, tmp_path: Path) -> None:
    whole = precompute(changed(one, out=str(tmp_path / "whole.zarr"), views=3)).store
    precompute(changed(one, views=0))
    before = lasting(Path(one.precompute.out))
    for views in (2, 3):
        zoo.teachers[ONE] = TinyTeacher()
        result = precompute(changed(one, views=views))
        assert result.computed == (32, 16)[views - 2]
    assert before.items() <= lasting(Path(one.precompute.out)).items()
    assert lasting(Path(one.precompute.out)) == lasting(Path(whole))


def test_what_is_finished_is_found_with_its_views(one: Config) -> None:
    assert find_finished(one) is None
    first = precompute(one)
    again = find_finished(one)
    assert again is not None
    assert (again.wanted, again.computed, again.teachers[0].views) == (first.wanted, 0, 2)
    assert find_finished(changed(one, views=0)) is not None
    for facts in ({"views": 3}, {"view_seed": 1}, {"view_flip": 0.25}, {"view_min_crop_area": 0.3}):
        assert find_finished(changed(one, **facts)) is None
    assert find_finished(changed(one, encoding=("int8",))) is None
    next(Path(first.store).glob("teachers/*/*/commits/1.json")).unlink()
    assert find_finished(one) is None


def test_a_finished_view_is_not_taken_for_the_teacher(one: Config, tmp_path: Path) -> None:
    """Also where there are no labels, and so no class means that a view would lack."""
    write_shard(tmp_path / "bare" / "train-0.tar", 5, labels=False)
    bare = replace(changed(one, views=1), data=DataConfig(str(tmp_path / "bare")))
    plain = open_store(precompute(bare).store).teacher().teacher_id
    assert find_finished(changed(bare, views=0)) is not None
    next(Path(one.precompute.out).glob(f"teachers/{plain}/*/commits/0.json")).unlink()
    assert find_finished(changed(bare, views=0)) is None


def test_a_run_that_was_stopped_between_views_goes_on(one: Config, zoo: Zoo, tmp_path: Path) -> None:
    whole = lasting(Path(precompute(changed(one, out=str(tmp_path / "whole.zarr"))).store))

    class Stopping(TinyTeacher):
        def embed(self, pixels: torch.Tensor, outputs: object) -> dict[str, torch.Tensor]:
            if len(self.batches) == 12:
                raise KeyboardInterrupt
            return super().embed(pixels, ["cls"])

    zoo.teachers[ONE] = Stopping()
    with pytest.raises(Interrupted, match="1 of 3 shards are committed"):
        precompute(one)
    zoo.teachers[ONE] = TinyTeacher()
    assert precompute(one).computed == 3 * 9
    assert lasting(Path(one.precompute.out)) == whole


def test_several_teachers_each_have_their_views_and_texts_have_none(config: Config) -> None:
    store = open_store(precompute(changed(config, views=1)).store)
    assert len(store.teacher_ids) == 4
    (of_pair,) = store.views_of(store.teacher(OTHER).teacher_id)
    assert store.teacher(OTHER).outputs == ("image", "text")
    assert store.teacher(of_pair).outputs == ("image",)
    with pytest.raises(ConfigError, match=r"has 2 teachers; name one") as caught:
        store.teacher()
    assert of_pair not in str(caught.value)
    with pytest.raises(StoreError, match=r"^views are of images, and openclip:ViT-B-32 is asked for text; leave out"):
        precompute(changed(config, teachers=(OTHER,), outputs=("text",), views=1))


@pytest.mark.parametrize(
    "facts",
    [{"views": -1}, {"view_seed": -1}, {"view_min_crop_area": 0}, {"view_min_crop_area": 1.1}, {"view_flip": 2}],
)
def test_settings_out_of_range_are_refused(config: Config, facts: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"^precompute.{next(iter(facts))}: expected .*, got "):
        changed(config, **facts)


def test_jobs_that_would_not_fit_together_take_turns(
    one: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = lasting(Path(precompute(changed(one, out=str(tmp_path / "whole.zarr"), views=3)).store))
    batch, table = 3 * 3 * PX * PX * 4, 2 * 7 * 5 * 4
    monkeypatch.setattr("embedkd.precompute.rounds.ROUND_BYTES", 2 * (batch + table))
    sizes: list[int] = []

    def noted(jobs: Sequence[Job], slot_rows: int) -> list[list[Job]]:
        sizes.extend(map(len, made := rounds(jobs, slot_rows)))
        return made

    monkeypatch.setattr("embedkd.precompute.stage.rounds", noted)
    watch = Watch()
    assert precompute(changed(one, views=3), watch).computed == 64
    assert (sizes, watch.done) == ([2, 2], 64)
    assert lasting(Path(one.precompute.out)) == whole


def test_a_mirrored_whole_image_is_the_mirrored_image(one: Config, folder: Path) -> None:
    """Of a square no part but the whole has all of its area, so this view mirrors and does nothing else."""
    mirror = changed(one, views=1, view_min_crop_area=1.0, view_flip=1.0)
    store = open_store(precompute(mirror).store)
    pixels = pixels_of("train-0/000").astype(np.float32).transpose(2, 0, 1)[None, :, :, ::-1] / 255
    said = TinyTeacher().embed(torch.from_numpy(pixels.copy()), ["cls"])["cls"][0].numpy().astype(np.float16)
    (view,) = store.views_of(store.teacher().teacher_id)
    assert (store.read(0, "cls", teacher=view).rows[0] == said).all()


def test_a_decode_worker_gets_the_view_with_the_key() -> None:
    view = ViewSpec(3, 1, 0.1, 0.5)
    sent: Transform = pickle.loads(pickle.dumps(Transform(Squash(SPEC.preprocess), (PX, PX), view)))
    keys, out = ("a", "b"), np.zeros((2, 3, PX, PX), np.float32)
    decode_into([(picture("a"), key) for key in keys], [(sent, out)], DecodePolicy())
    assert not (out[0] == out[1]).all()
    for key, pixels in zip(keys, out, strict=True):
        part = crop_view(Image.fromarray(pixels_of("a")), view, key)
        assert (pixels == to_pixels(part).numpy()).all()


FACTS = Preprocess(256, (24, 18), "bicubic", (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))


def test_a_part_is_squashed_whole_and_normalised() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 50, 3), np.uint8))
    resized = np.asarray(image.resize((18, 24), Image.Resampling.BICUBIC), np.float64)
    expected = (resized / 255 - FACTS.mean) / FACTS.std
    found = Squash(FACTS)(image)
    assert (tuple(found.shape), found.dtype) == ((3, 24, 18), torch.float32)
    assert np.abs(found.numpy().transpose(1, 2, 0) - expected).max() < 1e-5


def test_a_filter_that_is_not_pillow_s_is_refused_before_anything_is_computed(one: Config, zoo: Zoo) -> None:
    class Strange(TinyTeacher):
        spec = replace(SPEC, preprocess=replace(SPEC.preprocess, interpolation="area"))

    zoo.teachers[ONE] = Strange()
    with pytest.raises(TeacherError, match=r"stored views need a teacher that resizes by nearest, .*, got 'area'"):
        precompute(one)
    assert not Path(one.precompute.out).exists()


def test_the_command_says_how_many_and_info_shows_them_in_a_line(
    one: Config, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> str:
        code, printed, errors = invoke(capsys, arguments)
        assert code == 0, errors
        return printed

    out = one.precompute.out
    small = [f"--set=precompute.{key}" for key in ("decode_workers=0", "device=cpu", "threads=1")]
    command = ["precompute", "--data", str(folder), "--out", out, "--teacher", ONE, "--views", "2", *small]
    printed = run(*command)
    assert "48 of 48 rows computed" in printed
    assert "--teacher" not in printed, "train takes the only teacher that saw whole images"
    assert " and 2 views of it; nothing to do\n" in run(*command)
    shown = run("store", "info", out)
    assert "  views: 2 of seed 0, crops from 0.35 of the area, mirrored with probability 0.5; cls 6/6 slots" in shown
    assert shown.count("\n  model ") == 1
    store = open_store(out)
    last = store.views_of(store.teacher().teacher_id)[1]
    next(Path(out).glob(f"teachers/{last}/*/commits/1.json")).unlink()
    shown = run("store", "info", out)
    assert "; cls 5/6 slots" in shown
    assert "not finished; next: embedkd precompute again" in shown
