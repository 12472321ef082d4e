import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, ViTConfig, ViTModel
from transformers.utils import logging

from embedkd.errors import TeacherError
from embedkd.records import OutputSpec
from embedkd.teachers import Teacher, load_teacher, vit
from embedkd.teachers.families import FAMILIES
from embedkd.teachers.processor import describe_processor
from tests.contracts import TeacherContract

SaveViT = Callable[..., Path]
# transformers leaves these untyped.
load_processor: Callable[..., Any] = AutoImageProcessor.from_pretrained
load_model: Callable[..., Any] = ViTModel.from_pretrained


@pytest.fixture(scope="module")
def small(vit_folder: Path) -> Teacher:
    return load_teacher(f"vit:{vit_folder}")


@pytest.fixture
def copy(vit_folder: Path, tmp_path: Path) -> Path:
    """The small ViT's folder under another name, free to be damaged."""
    return Path(shutil.copytree(vit_folder, tmp_path / "copy"))


def edit_json(file: Path, **changes: object) -> None:
    """Set keys of a JSON file; None removes one."""
    document = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def refusal(folder: Path) -> str:
    with pytest.raises(TeacherError) as caught:
        load_teacher(f"vit:{folder}")
    return str(caught.value)


class TestViTTeacher(TeacherContract):
    @pytest.fixture
    def teacher(self, small: Teacher) -> Teacher:
        return small


def test_pixels_are_those_of_the_librarys_own_call(
    small: Teacher, vit_folder: Path, photos: dict[str, Image.Image]
) -> None:
    processor = load_processor(vit_folder)
    for photo in photos.values():
        for image in (photo, photo.resize((96, 64)), photo.resize((7, 500))):
            assert torch.equal(small.preprocess(image), processor(image, return_tensors="pt")["pixel_values"][0])


@pytest.mark.parametrize("head", [False, True])
def test_cls_is_the_librarys_first_token_after_the_last_norm(
    tmp_path: Path, save_vit: SaveViT, photos: dict[str, Image.Image], *, head: bool
) -> None:
    folder = save_vit(tmp_path / "model", head=head, seed=3)
    teacher = load_teacher(f"vit:{folder}")
    pixels = torch.stack([teacher.preprocess(photo) for photo in photos.values()])
    with torch.no_grad():
        hidden = load_model(folder).eval()(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(teacher.embed(pixels, ["cls"])["cls"], hidden[:, 0], atol=1e-5, rtol=0)


def test_the_spec_is_what_the_folder_says(small: Teacher, vit_folder: Path) -> None:
    spec, facts = small.spec, small.spec.preprocess
    assert spec.name == "vit:ViT-w32-d2-p8-i32"
    assert spec.source == str(vit_folder)
    assert spec.outputs == (OutputSpec("cls", 32),)
    assert (facts.resize_px, facts.crop_px, facts.interpolation) == ((32, 32), (32, 32), "bicubic (torchvision)")
    assert (facts.mean, facts.std) == ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    assert (spec.revision, spec.licence) == (None, None)


def test_a_snapshot_of_the_hub_says_repository_revision_and_licence(
    small: Teacher, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = copy.rename(copy.parent / ("0123456789" * 4))
    source = "google/vit-large-patch32-224-in21k"
    monkeypatch.setattr(vit, "fetch_folder", lambda *asked: snapshot if asked == (source, "vit:ViT-L-32") else None)
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
    expected = load_processor(copy)(photos["china"], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(teacher.preprocess(photos["china"]), expected)
    assert teacher.spec.preprocess.interpolation == "bilinear (torchvision)"


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
        ({"hidden_size": "wide"}, "describes no ViT"),
        ({"hidden_size": 10**9}, "hidden_size 1000000000, expected 1 to"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers 1000000, expected 1 to"),
        ({"patch_size": 0}, "patch_size 0, expected 1 to"),
        ({"intermediate_size": 200_000}, "the files hold"),
        ({"hidden_act": "no_such_function"}, "describes no ViT"),
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


def test_a_crop_and_a_scale_of_its_own_are_described() -> None:
    sizes = {"height": None, "width": None, "longest_edge": None}
    processor = SimpleNamespace(
        size=SimpleNamespace(**(sizes | {"shortest_edge": 256})),
        crop_size=SimpleNamespace(height=224, width=200),
        do_resize=True,
        do_center_crop=True,
        do_pad=None,
        do_rescale=True,
        rescale_factor=1 / 127.5,
        do_normalize=True,
        image_mean=(1.0, 1.0, 1.0),
        image_std=(1.0, 1.0, 1.0),
        resample=2,
        backend="pil",
    )
    facts = describe_processor(processor, "here")
    assert (facts.resize_px, facts.crop_px, facts.interpolation) == (256, (224, 200), "bilinear")
    assert facts.mean == facts.std == (0.5, 0.5, 0.5)


def test_code_in_a_folder_never_runs(copy: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(witness)!r}, 'w')\nclass Model: ...\n")
    code = {"AutoModel": "evil.Model", "AutoConfig": "evil.Model", "AutoImageProcessor": "evil.Model"}
    edit_json(copy / "config.json", auto_map=code, attn_implementation="stranger/kernel", _attn_implementation="x/y")
    edit_json(copy / "preprocessor_config.json", auto_map=code)
    load_teacher(f"vit:{copy}")
    assert not witness.exists()


def test_a_pickle_with_code_is_refused_and_named(copy: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    as_pickle(copy)
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert f"'{copy}/pytorch_model.bin' is a pickle that holds more than tensors" in refusal(copy)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-32", "ViT-L-16", "ViT-L-32"])
def test_the_catalogue_is_right_about_the_papers_models(name: str, tmp_path: Path) -> None:
    known = FAMILIES["vit"].models[name]
    large, patch = "-L-" in name, int(name[-2:])
    shape: dict[str, Any] = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    config = ViTConfig(patch_size=patch, **(shape if large else {}))
    with torch.device("meta"):
        model = ViTModel(config, add_pooling_layer=False)
    assert known.outputs == (OutputSpec("cls", config.hidden_size),)
    assert known.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert known.source == f"google/vit-{'large' if large else 'base'}-patch{patch}-224-in21k"
    config.save_pretrained(tmp_path)
    recognise = FAMILIES["vit"].recognise
    assert recognise is not None
    assert recognise(tmp_path) == name
