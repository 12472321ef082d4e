"""Several teachers in one pass over the data, and what names, outputs and settings mean for them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from embedkd.config import Config, DataConfig
from embedkd.errors import ConfigError, EmbedKDError, Interrupted, StoreError, TeacherError
from embedkd.precompute import find_finished, precompute, worker
from embedkd.precompute.jobs import choose_outputs
from embedkd.store import TeacherView, open_store
from embedkd.teachers import LoadOptions
from tests.precompute.zoo import ONE, OTHER, Watch, Zoo, changed
from tests.tiny import SPEC, TEXT_SPEC, TextTeacher, TinyTeacher, lasting, to_pixels


def test_two_together_leave_what_one_after_the_other_leaves(config: Config, tmp_path: Path) -> None:
    together = precompute(config)
    apart = str(tmp_path / "apart.zarr")
    precompute(changed(config, out=apart, teachers=(ONE,), outputs=("cls", "pooled")))
    precompute(changed(config, out=apart, teachers=(OTHER,), outputs=("image", "text")))
    assert lasting(Path(together.store)) == lasting(Path(apart))
    assert [(entry.name, entry.outputs, entry.computed) for entry in together.teachers] == [
        (ONE, ("cls", "pooled"), 16),
        (OTHER, ("image", "text"), 16),
    ]
    assert (together.rows, together.computed) == (16, 32)


def test_each_image_is_decoded_once_and_preprocessed_once_where_they_agree(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Counter[str]()

    def counted(name: str) -> None:
        function = getattr(worker, name)

        def call(*arguments: object) -> object:
            calls[name] += 1
            return function(*arguments)

        monkeypatch.setattr(worker, name, call)

    for name in ("decode_image", "_write"):
        counted(name)
    watch = Watch()
    precompute(config, watch)
    assert calls == {"decode_image": 16, "_write": 16}
    assert watch.steps["precompute"] == (32, "rows")


class Mirrored(TextTeacher):
    """Wants other pixels."""

    @property
    def preprocess(self) -> Callable[[Image.Image], torch.Tensor]:
        return mirrored


def mirrored(image: Image.Image) -> torch.Tensor:
    return to_pixels(image).flip(2)


def test_teachers_with_preprocessing_of_their_own_get_it(config: Config, zoo: Zoo, tmp_path: Path) -> None:
    zoo.teachers[OTHER] = Mirrored()
    store = precompute(config).store
    alone = precompute(
        changed(config, out=str(tmp_path / "b.zarr"), teachers=(OTHER,), outputs=("image", "text"))
    ).store
    assert lasting(Path(alone)).items() <= lasting(Path(store)).items()
    views = [open_store(where).teacher(OTHER) for where in (store, alone)]
    plain = open_store(store).teacher(ONE).read(0, "cls").rows
    assert (views[0].read(0, "image").rows == views[1].read(0, "image").rows).all()
    assert not (views[0].read(0, "image").rows == -plain).all()


class Interrupting(TextTeacher):
    """Is interrupted at one batch of images."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        if len(self.batches) == self._at:
            raise KeyboardInterrupt
        return super().embed(pixels, outputs)


def test_two_that_were_stopped_anywhere_end_in_the_same_bytes(config: Config, zoo: Zoo, tmp_path: Path) -> None:
    whole = lasting(Path(precompute(changed(config, out=str(tmp_path / "whole.zarr"))).store))
    kept = []
    for at in range(1, 8):
        here = changed(config, out=str(tmp_path / f"{at}.zarr"))
        zoo.teachers[OTHER] = Interrupting(at)
        with pytest.raises(Interrupted, match="of 3 shards are committed") as stopped:
            precompute(here)
        kept.append(int(str(stopped.value).split()[1]))
        zoo.teachers[OTHER] = TextTeacher()
        assert precompute(here).computed == 2 * (16 - [0, 7, 12][kept[-1]])
        assert lasting(Path(here.precompute.out)) == whole
    assert kept == [0, 0, 0, 1, 1, 2, 2]


def test_a_teacher_that_comes_later_computes_alone(config: Config, zoo: Zoo) -> None:
    precompute(changed(config, teachers=(ONE,), outputs=("cls", "pooled")))
    before = lasting(Path(config.precompute.out))
    zoo.teachers[ONE] = TinyTeacher()
    result = precompute(config)
    assert [entry.computed for entry in result.teachers] == [0, 16]
    assert zoo.teachers[ONE].batches == []
    assert before.items() <= lasting(Path(config.precompute.out)).items()


def test_what_is_finished_is_found_for_all_of_them(config: Config, zoo: Zoo) -> None:
    assert find_finished(config) is None
    first = precompute(config)
    again = find_finished(config)
    assert again is not None
    assert [entry.class_sets for entry in again.teachers] == [entry.class_sets for entry in first.teachers]
    assert find_finished(changed(config, teachers=(OTHER, ONE))) is not None
    assert find_finished(changed(config, outputs=("cls",), teachers=(ONE,))) is not None
    assert find_finished(changed(config, outputs=("cls", "logits"))) is None
    assert find_finished(changed(config, precision="bfloat16")) is None
    assert find_finished(changed(config, weights="random")) is None
    assert find_finished(changed(config, teachers=(ONE, OTHER, "vit:ViT-B-32"))) is None


def test_inner_layers_are_outputs_that_are_added_and_found(config: Config, zoo: Zoo) -> None:
    class Layered(TinyTeacher):
        spec = replace(SPEC, layers=2)

        def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
            said = TinyTeacher.embed(self, pixels, ["cls"])["cls"]
            return {name: said + len(name) for name in outputs}

    zoo.teachers[ONE] = Layered()
    one = changed(config, teachers=(ONE,), outputs=("cls@-1", "cls"))
    result = precompute(one)
    assert result.teachers[0].outputs == ("cls", "cls@-1")
    assert find_finished(one) is not None
    assert find_finished(changed(one, outputs=("cls@0",))) is None
    with pytest.raises(StoreError, match=r"has no output 'cls@2'; it has: cls, pooled; cls@k for k from -2 to 1"):
        precompute(changed(one, outputs=("cls@2",)))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (("logits",), r"^no teacher has output 'logits'; packaged.* has: cls, pooled; openclip.* has: image, text$"),
        (("cls",), r"^openclip:ViT-B-32 has none of the outputs cls; it has: image, text$"),
    ],
)
def test_outputs_that_nobody_has_are_refused_before_a_store_is_made(
    config: Config, wanted: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(StoreError, match=reason):
        precompute(changed(config, outputs=wanted))
    assert not Path(config.precompute.out).exists()


def test_outputs_are_filtered_and_defaults_are_each_teacher_s_own() -> None:
    assert choose_outputs([SPEC, TEXT_SPEC], ("text", "pooled", "cls")) == [("cls", "pooled"), ("text",)]
    assert choose_outputs([SPEC, TEXT_SPEC], ()) == [("cls",), ("image",)]


def test_one_teacher_twice_is_refused(config: Config, zoo: Zoo) -> None:
    with pytest.raises(ConfigError, match=r"^'efficientnet-lite0'|are the same teacher; name it once$"):
        precompute(changed(config, teachers=(ONE, "efficientnet-lite0")))
    zoo.teachers[OTHER] = zoo.teachers[ONE]
    with pytest.raises(ConfigError, match=rf"^'{OTHER}' is the same teacher as one before it \({ONE}\); name it once$"):
        precompute(config)


def test_random_weights_are_asked_for_and_told(config: Config, zoo: Zoo) -> None:
    class Drawn(TinyTeacher):
        spec = replace(SPEC, random_weights=True, source="random weights, seed 7", weights_sha256="1" * 64)

    zoo.teachers[ONE] = Drawn()
    drawn = changed(config, teachers=(ONE,), outputs=("cls",), weights="random", seed=7, trust_code="me/mine")
    watch = Watch()
    assert precompute(drawn, watch).teachers[0].random_weights
    assert zoo.options == [LoadOptions("cpu", "auto", 7, "me/mine")]
    assert f"loading {ONE} with random weights (seed 7), for dry runs" in watch.lines
    assert find_finished(drawn) is not None
    assert find_finished(changed(drawn, seed=8)) is None
    assert find_finished(changed(drawn, weights="trained")) is None


def test_compiling_is_recorded_and_the_record_wins(config: Config, zoo: Zoo) -> None:
    class Compiling(TinyTeacher):
        def compiled(self) -> TinyTeacher:
            return Doubled()

    class Doubled(TinyTeacher):
        def embed(self, pixels: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
            return {name: 2 * rows for name, rows in super().embed(pixels, outputs).items()}

    zoo.teachers[ONE] = Compiling()
    one = changed(config, teachers=(ONE,), outputs=("cls",))
    store = Path(precompute(changed(one, compile=True)).store)
    view = TeacherView(open_store(str(store)), SPEC.teacher_id)
    assert [plan.compiled for plan in view.passes.values()] == [True]
    before = view.read(0, "cls").rows
    for commit in store.glob("teachers/*/*/commits/0.json"):
        commit.unlink()
    for chunk in store.glob("teachers/*/cls/c/0/0"):
        chunk.unlink()
    watch = Watch()
    precompute(one, watch)
    again = TeacherView(open_store(str(store)), SPEC.teacher_id)
    assert (again.read(0, "cls").rows == before).all()
    assert any("was begun with batches of 3, compiled, and goes on so" in line for line in watch.lines)


def test_class_prompts_need_a_text_tower_and_class_names(config: Config, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="names no classes to put into prompts"):
        precompute(changed(config, class_prompts="simple"))
    with pytest.raises(EmbedKDError, match="unknown prompts"):
        precompute(changed(config, class_prompts="clop"))
    assert not Path(config.precompute.out).exists()
    from embedkd.sources.pack import pack

    folder = tmp_path / "images"
    for name in ("ant", "newt"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (6, 6), (40 * number, 90, 7)).save(folder / name / f"{number}.png")
    named = replace(config, data=DataConfig(shards=str(pack(folder, tmp_path / "named").folder)))
    with pytest.raises(TeacherError, match=r"^no teacher here reads text .* leave out --class-prompts"):
        precompute(changed(named, class_prompts="simple", teachers=(ONE,), outputs=("cls",)))
    asked = changed(named, class_prompts="simple", outputs=("cls", "image"))
    assert find_finished(asked) is None
    result = precompute(asked)
    assert result.teachers[1].class_sets["text"] == ("prompts-simple",)
    assert find_finished(asked) is not None
    template = tmp_path / "own.txt"
    template.write_text("the {} there\n")
    own = changed(asked, class_prompts=str(template))
    assert find_finished(own) is None
    assert precompute(own).computed == 0
    assert find_finished(own) is not None
