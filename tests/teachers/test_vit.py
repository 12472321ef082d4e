import json
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.utils import logging

from embedkd.errors import TeacherError
from embedkd.records import OutputSpec
from embedkd.teachers import Teacher, load_teacher, transformers_folder
from tests.contracts import TeacherContract
from tests.teachers.clipart import pictures
from tests.teachers.saved_transformers import LABELS, edit_json, edit_weights, from_pretrained, save_kind

SaveViT = Callable[..., Path]
Saved = Callable[[str], tuple[Path, Teacher]]
# Kind -> tokens in front of its patches.
KINDS = {
    "vit": 1,
    "dino": 1,
    "vit-classifier": 1,
    "deit-classifier": 2,
    "deit-distilled": 2,
    "dinov2": 1,
    "dinov2-classifier": 1,
    "dinov2-registers": 4,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A function from a kind to its folder and its teacher, each made once."""

    @cache
    def get(kind: str) -> tuple[Path, Teacher]:
        folder = save_kind(kind, tmp_path_factory.mktemp(kind))
        return folder, load_teacher(f"vit:{folder}")

    return get


@pytest.fixture(scope="module")
def small(vit_folder: Path) -> Teacher:
    return load_teacher(f"vit:{vit_folder}")


@pytest.fixture
def copy(vit_folder: Path, tmp_path: Path) -> Path:
    """The small ViT's folder under another name, free to be damaged."""
    return Path(shutil.copytree(vit_folder, tmp_path / "copy"))


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def refusal(folder: Path) -> str:
    with pytest.raises(TeacherError) as caught:
        load_teacher(f"vit:{folder}")
    return str(caught.value)


class TestViTTeachers(TeacherContract):
    @pytest.fixture(params=KINDS)
    def teacher(self, request: pytest.FixtureRequest, saved: Saved) -> Teacher:
        return saved(request.param)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_the_librarys_own_call(kind: str, saved: Saved, photos: dict[str, Image.Image]) -> None:
    folder, teacher = saved(kind)
    processor = from_pretrained("AutoImageProcessor", folder)
    images = [*pictures(), *photos.values(), photos["china"].resize((96, 64)), photos["china"].resize((7, 500))]
    for image in images:
        assert torch.equal(teacher.preprocess(image), processor(image, return_tensors="pt")["pixel_values"][0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_output_is_the_librarys(kind: str, saved: Saved) -> None:
    folder, teacher = saved(kind)
    inputs = from_pretrained("AutoImageProcessor", folder)(list(pictures()), return_tensors="pt")
    special = KINDS[kind]
    with torch.no_grad():
        said = from_pretrained("AutoModel", folder).eval()(**inputs, output_hidden_states=True)
        expected = {"cls": said.last_hidden_state[:, 0], "patch_mean": said.last_hidden_state[:, special:].mean(1)}
        for layer, tokens in enumerate(said.hidden_states[1:]):
            for name in (f"@{layer}", f"@{layer - len(said.hidden_states) + 1}"):
                expected |= {f"cls{name}": tokens[:, 0], f"patch_mean{name}": tokens[:, special:].mean(1)}
        if kind == "vit":
            expected["pooled"] = said.pooler_output
        if teacher.spec.output("logits"):
            expected["logits"] = from_pretrained("AutoModelForImageClassification", folder).eval()(**inputs).logits
    assert {output.name for output in teacher.spec.outputs} == {name for name in expected if "@" not in name}
    found = teacher.embed(torch.stack([teacher.preprocess(image) for image in pictures()]), list(expected))
    for name, rows in expected.items():
        torch.testing.assert_close(found[name], rows, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_offered_is_what_the_files_hold(kind: str, saved: Saved) -> None:
    spec = saved(kind)[1].spec
    extra = {"vit": ["pooled"]} | {kind: ["logits"] for kind in KINDS if "deit" in kind or "classifier" in kind}
    assert [output.name for output in spec.outputs] == ["cls", *extra.get(kind, []), "patch_mean"]
    assert {output.dim for output in spec.outputs} == {32, LABELS} if "logits" in extra.get(kind, []) else {32}
    assert spec.layers == 2


def test_a_pooler_without_weights_is_never_offered(copy: Path) -> None:
    edit_weights(copy, lambda state: [state.pop(name) for name in list(state) if name.startswith("pooler.")])
    assert load_teacher(f"vit:{copy}").spec.output("pooled") is None
    assert load_teacher(f"vit:{copy}").spec.output("cls") is not None


def test_half_a_pooler_is_a_misfit(copy: Path) -> None:
    edit_weights(copy, lambda state: state.pop("pooler.dense.bias"))
    assert "pooler.dense.bias is missing" in refusal(copy)


def test_a_head_without_weights_is_never_offered(saved: Saved, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved("vit-classifier")[0], tmp_path / "copy"))
    edit_weights(copy, lambda state: [state.pop(f"classifier.{name}") for name in ("weight", "bias")])
    spec = load_teacher(f"vit:{copy}").spec
    assert [output.name for output in spec.outputs] == ["cls", "patch_mean"]
    edit_json(copy / "config.json", architectures=["ViTModel"])
    assert load_teacher(f"vit:{copy}").spec.fingerprint == spec.fingerprint


def test_a_head_of_other_labels_is_a_misfit(saved: Saved, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved("vit-classifier")[0], tmp_path / "copy"))
    edit_json(copy / "config.json", id2label={"0": "cat", "1": "dog"})
    assert f"classifier.bias is [{LABELS}], the model expects [2]" in refusal(copy)


def test_inner_layers_are_caught_only_where_they_are_asked_for(saved: Saved) -> None:
    teacher = saved("dino")[1]
    assert teacher.backbone is not None
    seen: list[int] = []
    blocks = teacher.backbone.module.layers
    assert isinstance(blocks, torch.nn.ModuleList)
    handles = [
        block.register_forward_hook(lambda module, *_: seen.append(len(module._forward_hooks))) for block in blocks
    ]
    pixels = torch.stack([teacher.preprocess(image) for image in pictures()[:2]])
    teacher.embed(pixels, ["cls"])
    teacher.embed(pixels, ["cls@-1"])
    for handle in handles:
        handle.remove()
    assert seen == [1, 1, 1, 2]
    assert not any(block._forward_hooks for block in blocks)


def test_the_spec_is_what_the_folder_says(small: Teacher, vit_folder: Path) -> None:
    spec, facts = small.spec, small.spec.preprocess
    assert spec.name == "vit:ViT-w32-d2-p8-i32"
    assert spec.source == str(vit_folder)
    assert spec.outputs == (OutputSpec("cls", 32), OutputSpec("pooled", 32), OutputSpec("patch_mean", 32))
    assert spec.default_outputs == ("cls",)
    assert (facts.resize_px, facts.crop_px) == ((32, 32), (32, 32))
    assert (facts.interpolation, facts.backend, facts.pad_rgb) == ("bicubic", "torchvision", None)
    assert (facts.mean, facts.std) == ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    assert (spec.revision, spec.licence) == (None, None)


def test_a_snapshot_of_the_hub_says_repository_revision_and_licence(
    small: Teacher, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = copy.rename(copy.parent / ("0123456789" * 4))
    source = "google/vit-large-patch32-224-in21k"
    monkeypatch.setattr(
        transformers_folder, "fetch_folder", lambda *asked: snapshot if asked == (source, "vit:ViT-L-32") else None
    )
    spec = load_teacher("ViT-L-32").spec
    assert (spec.name, spec.source, spec.revision) == ("vit:ViT-L-32", source, "0123456789" * 4)
    assert spec.licence == "Apache-2.0"
    assert spec.fingerprint == small.spec.fingerprint


def test_the_fingerprint_is_that_of_the_weights_not_of_their_file(
    small: Teacher, copy: Path, save_vit: SaveViT, tmp_path: Path
) -> None:
    moved = load_teacher(f"vit:{copy}").spec
    as_pickle(copy)
    pickled = load_teacher(f"vit:{copy}").spec
    other = load_teacher(f"vit:{save_vit(tmp_path / 'other', seed=1)}").spec
    assert small.spec.fingerprint == moved.fingerprint == pickled.fingerprint != other.fingerprint
    assert small.spec.teacher_id == pickled.teacher_id
    assert small.spec.source != moved.source


def test_preprocessing_is_part_of_the_fingerprint(small: Teacher, copy: Path) -> None:
    edit_json(copy / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    spec = load_teacher(f"vit:{copy}").spec
    assert spec.weights_sha256 == small.spec.weights_sha256
    assert spec.fingerprint != small.spec.fingerprint


def test_a_config_of_the_first_releases_loads_as_the_library_loads_it(
    copy: Path, photos: dict[str, Image.Image]
) -> None:
    # google/vit-large-patch32-224-in21k has this form: one size, no resample, no type of the processor.
    old = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 32}
    (copy / "preprocessor_config.json").write_text(json.dumps(old))
    teacher = load_teacher(f"vit:{copy}")
    expected = from_pretrained("AutoImageProcessor", copy)(photos["china"], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(teacher.preprocess(photos["china"]), expected)
    assert teacher.spec.preprocess.interpolation == "bilinear"


def test_loading_says_nothing_and_moves_no_generator(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edit_weights(copy, lambda state: state.update({"classifier.weight": torch.zeros(3, 32)}))
    random_state = torch.get_rng_state()
    bars = logging.is_progress_bar_enabled()
    capfd.readouterr()
    load_teacher(f"vit:{copy}")
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled() is bars
    assert torch.equal(torch.get_rng_state(), random_state)


def test_weights_that_do_not_fit_are_listed(copy: Path) -> None:
    def damage(state: dict[str, torch.Tensor]) -> None:
        del state["layernorm.weight"]
        state["encoder.layer.7.output.dense.bias"] = torch.zeros(32)
        state["embeddings.position_embeddings"] = torch.zeros(1, 5, 32)

    edit_weights(copy, damage)
    first, second = refusal(copy).splitlines()
    assert first == f"the weights of '{copy}' do not fit its model, 3 differences"
    assert second.startswith("layernorm.weight is missing; ")
    assert "layers.7." in second
    assert second.endswith("embeddings.position_embeddings is [1, 5, 32], the model expects [1, 17, 32]")


def test_a_shallower_config_than_its_weights_is_no_silent_truncation(copy: Path) -> None:
    edit_json(copy / "config.json", num_hidden_layers=1)
    assert "is left over" in refusal(copy)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": "wide"}, "describes no model"),
        ({"hidden_size": 10**9}, "hidden_size 1000000000, expected 1 to"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers 1000000, expected 1 to"),
        ({"patch_size": 0}, "patch_size 0, expected 1 to"),
        ({"intermediate_size": 200_000}, "the files hold"),
        ({"hidden_act": "no_such_function"}, "describes no model"),
        ({"num_attention_heads": 5}, "do not fit its model"),
        ({"image_size": 64}, "gives (32, 32) px, the model takes (64, 64) px"),
        ({"num_channels": 4}, "takes 4 channels"),
    ],
)
def test_a_config_that_cannot_be(copy: Path, changes: dict[str, object], says: str) -> None:
    edit_json(copy / "config.json", **changes)
    assert says in refusal(copy)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_mean": None, "image_std": None}, "lacks image_mean, image_std; add what"),
        ({"size": None}, "lacks size"),
        ({"do_resize": False}, "must resize to one size"),
        ({"size": {"shortest_edge": 32}}, "must resize to one size"),
        ({"size": {"height": 9000, "width": 9000}}, "sides of (9000, 9000, 9000, 9000) px, expected 1 to 8192"),
        ({"image_processor_type": "NoSuchProcessor"}, "describes no image processor"),
        ({"size": {"height": "tall", "width": 32}}, "describes no image processor"),
        ({"image_mean": [0.5]}, "describes no image processor"),
        ({"image_std": [0.5, 0, 0.5]}, "expected positive numbers"),
    ],
)
def test_a_processor_that_cannot_be(copy: Path, changes: dict[str, object], says: str) -> None:
    edit_json(copy / "preprocessor_config.json", **changes)
    assert says in refusal(copy)


def test_a_folder_without_a_processor_says_how_to_give_one(copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    first, second = refusal(copy).splitlines()
    assert "the size, mean and std of its images are unknown" in first
    assert "save_pretrained(folder)" in second


def test_a_pickle_with_code_is_refused_and_named(copy: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    as_pickle(copy)
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert f"'{copy}/pytorch_model.bin' is a pickle that holds more than tensors" in refusal(copy)
    assert not (tmp_path / "ran").exists()


def test_a_compiled_teacher_says_the_same(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = saved("vit-classifier")[1]
    compile_eagerly = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward: compile_eagerly(forward, backend="eager"))
    pixels = torch.stack([teacher.preprocess(image) for image in pictures()[:2]])
    names = ["cls", "logits", "patch_mean", "cls@0"]
    found, expected = teacher.compiled().embed(pixels, names), teacher.embed(pixels, names)
    assert all(torch.equal(found[name], expected[name]) for name in names)
