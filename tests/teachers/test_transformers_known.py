"""Known names: what their tables say, and their models with random weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from embedkd.errors import TeacherError
from embedkd.teachers import LoadOptions, load_teacher
from embedkd.teachers.families import FAMILIES
from embedkd.teachers.known import hf, vit
from embedkd.teachers.processor import describe_processor, load_processor
from embedkd.teachers.transformers_folder import read_config
from embedkd.teachers.transformers_model import bare_class, classifier_class
from tests.teachers.clipart import pictures
from tests.teachers.saved_transformers import edit_json, save_kind


@pytest.mark.parametrize("name", vit.MODELS)
def test_the_table_of_vit_is_right(name: str, tmp_path: Path) -> None:
    known, recognise = vit.MODELS[name], FAMILIES["vit"].recognise
    vit.PUBLISHED[name].write(tmp_path)
    config: Any = read_config(tmp_path, trusted=False)
    offered = {output.name: output.dim for output in known.outputs}
    architecture = vit.PUBLISHED[name].config.get("architectures", [""])[0]
    kind: Any = classifier_class(config, architecture) or bare_class(config)
    with torch.device("meta"):
        model = kind(config)
    if "pooled" not in offered and getattr(model, "pooler", None):
        model.pooler = None
    assert known.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert offered.pop("logits", 1000) == 1000
    assert set(offered.values()) == {config.hidden_size}
    assert known.preprocess == describe_processor(load_processor(tmp_path).processor, name)
    assert recognise is not None
    assert recognise(tmp_path) == name.partition(".")[0]


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known models with one block each, so that drawing them takes no seconds."""
    for published in (vit.PUBLISHED, hf.PUBLISHED):
        for name, known in published.items():
            config = dict(known.config)
            if "vision_config" in config:
                config["vision_config"] = dict(config["vision_config"]) | {"num_hidden_layers": 1}
                config["text_config"] = dict(config["text_config"]) | {"num_hidden_layers": 1, "vocab_size": 50}
            else:
                config["num_hidden_layers"] = 1
            monkeypatch.setitem(published, name, replace(known, config=config))


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-T-16.deit", "DeiT-T-16", "DINOv2-S-14"])
def test_random_weights_of_a_known_model(name: str) -> None:
    random_state = torch.get_rng_state()
    first, again, other = (load_teacher(f"vit:{name}", LoadOptions(random_seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), random_state)
    spec, known = first.spec, vit.MODELS[name]
    assert (spec.outputs, spec.preprocess, spec.layers) == (known.outputs, known.preprocess, 1)
    assert (spec.random_weights, spec.source) == (True, "random weights, seed 3")
    assert (spec.revision, spec.licence) == (None, None)
    assert spec.fingerprint == again.spec.fingerprint != other.spec.fingerprint
    pixels = torch.stack([first.preprocess(image) for image in pictures()[:2]])
    for rows in first.embed(pixels, [output.name for output in spec.outputs]).values():
        assert torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0) < 0.999


def test_random_weights_of_a_folder_read_none_of_its_weights(tmp_path: Path) -> None:
    copy = save_kind("vit", tmp_path)
    (copy / "model.safetensors").unlink()
    spec = load_teacher(f"vit:{copy}", LoadOptions(random_seed=0)).spec
    # Whether it would come with a pooler, only its weights could tell.
    assert [output.name for output in spec.outputs] == ["cls", "patch_mean"]
    assert (spec.preprocess.mean, spec.random_weights) == ((0.48, 0.46, 0.41), True)


def test_more_random_weights_than_any_model_has_are_refused(tmp_path: Path) -> None:
    edit_json(save_kind("vit", tmp_path) / "config.json", hidden_size=65_536, intermediate_size=262_144)
    with pytest.raises(TeacherError, match=r"describes 103,\d+,\d+,\d+ weights, expected at most 20,000,000,000"):
        load_teacher(f"vit:{tmp_path}", LoadOptions(random_seed=0))


@pytest.mark.usefixtures("shallow")
def test_a_file_of_weights_takes_its_config_from_the_known_model(tmp_path: Path) -> None:
    drawn = load_teacher("ViT-T-16.deit", LoadOptions(random_seed=0))
    assert drawn.backbone is not None
    drawn.backbone.save(tmp_path / "bare")
    spec = load_teacher(f"vit:ViT-T-16.deit@{tmp_path / 'bare' / 'model.safetensors'}").spec
    assert [output.name for output in spec.outputs] == ["cls", "patch_mean"]  # its head is not in the file
    assert (spec.preprocess, spec.revision) == (drawn.spec.preprocess, None)
    save_file({"some": torch.zeros(6_000_000)}, tmp_path / "other.safetensors")
    with pytest.raises(TeacherError, match=r"the weights of '.*other.safetensors' do not fit its model"):
        load_teacher(f"vit:ViT-T-16.deit@{tmp_path / 'other.safetensors'}")


@pytest.mark.parametrize("name", hf.MODELS)
def test_the_table_of_hf_is_right(name: str, tmp_path: Path) -> None:
    known = hf.MODELS[name]
    hf.PUBLISHED[name].write(tmp_path)
    config: Any = read_config(tmp_path, trusted=False)
    kind: Any = bare_class(config)
    with torch.device("meta"):
        model = kind(config)
    tower = [model.vision_model, *([model.visual_projection] if config.model_type == "clip" else [])]
    assert known.parameters == sum(parameter.numel() for part in tower for parameter in part.parameters())
    joint = config.projection_dim if config.model_type == "clip" else config.vision_config.hidden_size
    assert {output.name: output.dim for output in known.outputs if output.name in {"image", "text"}} == {
        "image": joint,
        "text": joint,
    }
    assert known.preprocess == describe_processor(load_processor(tmp_path).processor, name)
    assert known.preprocess.crop_px == (config.vision_config.image_size,) * 2
    assert known.source == name


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch32", "google/siglip-base-patch16-224"])
def test_random_weights_of_a_known_pair(name: str) -> None:
    teacher = load_teacher(name, LoadOptions(random_seed=1))
    spec, known = teacher.spec, hf.MODELS[name]
    # A vocabulary is nothing that could be drawn.
    assert spec.outputs == tuple(output for output in known.outputs if output.name != "text")
    assert (spec.name, spec.random_weights, spec.source) == (f"hf:{name}", True, "random weights, seed 1")
    assert spec.preprocess == known.preprocess
    rows = teacher.embed(torch.stack([teacher.preprocess(image) for image in pictures()[:2]]), ["image"])["image"]
    assert torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0) < 0.999
