import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

import embedkd.teachers.timm_checkpoint as family
from embedkd.errors import TeacherError, UnknownNameError
from embedkd.teachers import LoadOptions, Teacher, load_teacher
from embedkd.teachers.families import FAMILIES
from embedkd.teachers.timm_outputs import find_outputs
from embedkd.teachers.transforms import describe_transform
from tests.contracts import TeacherContract
from tests.teachers.clipart import pictures

SMALL: dict[str, dict[str, Any]] = {
    "test_vit": {"num_classes": 7},  # class token
    "test_vit3": {"num_classes": 7},  # a register, no class token
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2, "global_pool": "avg"},
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 5},
    "cait_xxs24_224": {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2, "num_classes": 3},
    "test_resnet": {"num_classes": 0},
    "test_convnext": {"num_classes": 4},
}


def save(folder: Path, architecture: str, seed: int = 0, **pixels: Any) -> Path:
    """A small model with random weights, as timm saves it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(architecture, **SMALL[architecture])
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and parameter.ndim == 1 else 0.0, std=0.1)
    timm.models.save_for_hf(model, folder, safe_serialization=True, model_config={"pretrained_cfg": pixels})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("timm")
    return {name: save(root / name, name) for name in SMALL}


@pytest.fixture(scope="module")
def vit(folders: dict[str, Path]) -> Teacher:
    return load_teacher(f"timm:{folders['test_vit']}")


@pytest.fixture(scope="module")
def convolutions(folders: dict[str, Path]) -> Teacher:
    return load_teacher(f"timm:{folders['test_convnext']}")


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["test_vit"], tmp_path / "copy"))


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "config.json").read_text())
    edit(document)
    (folder / "config.json").write_text(json.dumps(document))


def refusal(name: str) -> str:
    with pytest.raises(TeacherError) as caught:
        load_teacher(name)
    return str(caught.value)


class TestTimmTeacher(TeacherContract):
    @pytest.fixture
    def teacher(self, vit: Teacher) -> Teacher:
        return vit


class TestTimmConvolutions(TeacherContract):
    @pytest.fixture
    def teacher(self, convolutions: Teacher) -> Teacher:
        return convolutions


@pytest.mark.parametrize("architecture", SMALL)
def test_pixels_and_outputs_are_those_of_timms_own_code(folders: dict[str, Path], architecture: str) -> None:
    reference = timm.create_model(f"local-dir:{folders[architecture]}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(reference), is_training=False)
    teacher = load_teacher(f"timm:{folders[architecture]}")
    for image in pictures():
        assert torch.equal(teacher.preprocess(image), transform(image))
    pixels = torch.stack([transform(image) for image in pictures()])
    with torch.no_grad():
        features = reference.forward_features(pixels)
        expected = {"pooled": reference.forward_head(features, pre_logits=True)}
        if reference.num_classes:
            expected["logits"] = reference(pixels)
        prefix = getattr(reference, "num_prefix_tokens", 0)
        normed = not isinstance(getattr(reference, "norm", torch.nn.Identity()), torch.nn.Identity)
        if features.ndim == 3 and normed:
            expected["patch_mean"] = features[:, prefix:].mean(1)
            if architecture != "test_vit3":
                expected["cls"] = features[:, 0]
    assert {output.name for output in teacher.spec.outputs} == set(expected)
    found = teacher.embed(pixels, list(expected))
    for name, rows in expected.items():
        torch.testing.assert_close(found[name], rows, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["test_vit", "test_vit3", "deit_tiny_distilled_patch16_224"])
def test_inner_layers_are_the_blocks_own_outputs(folders: dict[str, Path], architecture: str) -> None:
    reference = timm.create_model(f"local-dir:{folders[architecture]}", pretrained=True).eval()
    teacher = load_teacher(f"timm:{folders[architecture]}")
    pixels = torch.stack([teacher.preprocess(image) for image in pictures()])
    seen: dict[int, Tensor] = {}
    for number, block in enumerate(reference.blocks):
        block.register_forward_hook(lambda _module, _inputs, tokens, number=number: seen.update({number: tokens}))
    with torch.no_grad():
        reference(pixels)
    layers, prefix = len(reference.blocks), reference.num_prefix_tokens
    assert teacher.spec.layers == layers
    names = ["patch_mean@0", "patch_mean@-1", f"patch_mean@{layers - 2}"]
    names += ["cls@0", "cls@-1", "cls@-2", "cls"] if teacher.spec.output("cls") else []
    found = teacher.embed(pixels, names)
    for name in names:
        base, _, layer = name.partition("@")
        tokens = seen[int(layer) % layers] if layer else reference.norm(seen[layers - 1]).detach()
        rows = tokens[:, 0] if base == "cls" else tokens[:, prefix:].mean(1)
        torch.testing.assert_close(found[name], rows, atol=1e-5, rtol=1e-5)
        assert torch.equal(teacher.embed(pixels, [name])[name], found[name])


def test_a_model_that_norms_after_pooling_offers_no_tokens(folders: dict[str, Path]) -> None:
    teacher = load_teacher(f"timm:{folders['vit_tiny_patch16_224']}")
    assert teacher.spec.offer == "pooled, logits"
    assert load_teacher(f"timm:{folders['test_resnet']}").spec.offer == "pooled"


def test_the_spec_is_what_the_folder_says(vit: Teacher, folders: dict[str, Path]) -> None:
    spec = vit.spec
    assert spec.name == "timm:test_vit"
    assert spec.model == "timm test_vit(global_pool=token)"
    assert spec.source == str(folders["test_vit"])
    assert (spec.preprocess.resize_px, spec.preprocess.crop_px) == (168, (160, 160))
    assert (spec.preprocess.mean, spec.preprocess.interpolation) == ((0.5,) * 3, "bicubic")
    assert (spec.licence, spec.revision, spec.random_weights) == ("apache-2.0", None, False)
    assert (spec.tokenizer, vit.tokenize) == (None, None)


@pytest.mark.parametrize(
    ("pixels", "resize_px", "pad_rgb"),
    [
        ({"crop_mode": "squash", "crop_pct": 0.9}, (177, 177), None),
        ({"crop_mode": "border", "crop_pct": 1.0, "mean": [0.2, 0.4, 0.6]}, 160, (51, 102, 153)),
        ({"interpolation": "bilinear", "std": [0.1, 0.2, 0.3]}, 168, None),
    ],
)
def test_every_way_to_crop_is_timms_and_is_described(
    tmp_path: Path, pixels: dict[str, Any], resize_px: object, pad_rgb: object
) -> None:
    folder = save(tmp_path / "model", "test_vit", **pixels)
    teacher = load_teacher(f"timm:{folder}")
    reference = timm.create_model(f"local-dir:{folder}")
    transform = create_transform(**resolve_model_data_config(reference), is_training=False)
    for image in pictures():
        assert torch.equal(teacher.preprocess(image), transform(image))
    facts = teacher.spec.preprocess
    assert (facts.resize_px, facts.pad_rgb) == (resize_px, pad_rgb)
    assert facts.interpolation == pixels.get("interpolation", "bicubic")
    assert facts.std == tuple(pixels.get("std", (0.5,) * 3))


def test_the_fingerprint_is_that_of_the_weights_not_of_their_file(vit: Teacher, copy: Path, tmp_path: Path) -> None:
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save({name: tensor.half().float() for name, tensor in state.items()}, copy / "pytorch_model.bin")
    other = load_teacher(f"timm:{copy}").spec
    torch.save(state, copy / "pytorch_model.bin")
    same = load_teacher(f"timm:{copy}").spec
    assert same.fingerprint == vit.spec.fingerprint != other.fingerprint
    checkpoint = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    edit_config(copy, lambda document: document.update(num_classes=1000))
    state["head.weight"], state["head.bias"] = torch.zeros(1000, 64), torch.zeros(1000)
    checkpoint["state_dict"] = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(checkpoint, tmp_path / "checkpoint.pth.tar")
    named = load_teacher(f"timm:test_vit.r160_in1k@{tmp_path / 'checkpoint.pth.tar'}").spec
    assert named.name == "timm:test_vit.r160_in1k"
    assert named.preprocess == vit.spec.preprocess
    assert named.output("logits") is not None


def test_an_average_over_steps_is_taken_before_the_last_step(tmp_path: Path) -> None:
    state = timm.create_model("test_vit").state_dict()
    last = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"state_dict": last, "state_dict_ema": state}, tmp_path / "both.pth")
    torch.save(state, tmp_path / "average.pth")
    digests = [
        load_teacher(f"timm:test_vit.r160_in1k@{tmp_path / name}.pth").spec.weights_sha256
        for name in ("both", "average")
    ]
    assert digests[0] == digests[1]


def test_a_checkpoint_in_its_authors_form_is_translated_as_timm_does(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = timm.create_model("test_vit").eval()
    state = model.state_dict()
    torch.save({"model": state | {"mask_token": torch.zeros(1, 64)}}, tmp_path / "dinov2.pth")  # timm drops it
    teacher = load_teacher(f"timm:test_vit.r160_in1k@{tmp_path}/dinov2.pth")
    pixels = torch.stack([teacher.preprocess(image) for image in pictures()])
    with torch.no_grad():
        torch.testing.assert_close(teacher.embed(pixels, ["logits"])["logits"], model(pixels), atol=1e-5, rtol=0)
    save_file({f"strange.{name}": tensor for name, tensor in state.items()}, tmp_path / "strange.safetensors")
    assert "do not fit its model" in refusal(f"timm:test_vit.r160_in1k@{tmp_path}/strange.safetensors")


def test_random_weights_need_no_files_and_are_marked(tmp_path: Path, vit: Teacher) -> None:
    state = torch.get_rng_state()
    teacher = load_teacher("timm:test_vit.r160_in1k", LoadOptions(random_seed=3))
    again = load_teacher("timm:test_vit.r160_in1k", LoadOptions(random_seed=3))
    other = load_teacher("timm:test_vit.r160_in1k", LoadOptions(random_seed=4))
    assert torch.equal(torch.get_rng_state(), state)
    assert teacher.spec.fingerprint == again.spec.fingerprint != other.spec.fingerprint
    assert teacher.spec.random_weights
    assert teacher.spec.source == "random weights, seed 3"
    assert teacher.spec.preprocess == vit.spec.preprocess
    pixels = torch.stack([teacher.preprocess(image) for image in pictures()])
    for rows in teacher.embed(pixels, ["cls", "logits", "patch_mean@0"]).values():
        assert len(torch.unique(rows.half(), dim=0)) == len(pixels)
    folder = save(tmp_path / "config", "test_resnet")
    (folder / "model.safetensors").unlink()
    assert load_teacher(f"timm:{folder}", LoadOptions(random_seed=1)).spec.output("pooled") is not None


def test_a_hub_name_fetches_its_own_repository(copy: Path, monkeypatch: pytest.MonkeyPatch, vit: Teacher) -> None:
    snapshot = copy.rename(copy.parent / ("ab" * 20))
    (snapshot / "README.md").write_text("---\ntags: [a]\nlicense: mit\n---\n# Model\nlicense: gpl\n")
    asked: list[tuple[object, ...]] = []

    def fetch(*arguments: object) -> Path:
        asked.append(arguments)
        return snapshot

    monkeypatch.setattr(family, "fetch_folder", fetch)
    for name in ("timm:test_vit.r160_in1k", "timm:test_vit"):  # without a tag, timm's default one
        spec = load_teacher(name).spec
        assert asked.pop() == ("timm/test_vit.r160_in1k", name)
        assert (spec.name, spec.source, spec.revision) == (name, "timm/test_vit.r160_in1k", "ab" * 20)
        assert spec.licence == "mit"
        assert spec.fingerprint == vit.spec.fingerprint


def test_weights_that_do_not_fit_are_listed(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    state["pos_embed"] = torch.zeros(1, 5, 64)
    save_file(state, copy / "model.safetensors")
    first, second = refusal(f"timm:{copy}").splitlines()
    assert first == f"the weights of '{copy}' do not fit its model, 1 differences"
    assert second == "pos_embed is [1, 5, 64], the model expects [1, 101, 64]"
    del state["norm.weight"]
    save_file(state, copy / "model.safetensors")
    assert "norm.weight is missing" in refusal(f"timm:{copy}")


def test_a_config_that_leaves_the_pixels_to_be_guessed_says_what_to_add(copy: Path) -> None:
    edit_config(copy, lambda document: [document["pretrained_cfg"].pop(key) for key in ("mean", "crop_pct")])
    first, second = refusal(f"timm:{copy}").splitlines()
    assert first.endswith("lacks mean, crop_pct, so its images cannot be prepared")
    assert '"mean": [0.5, 0.5, 0.5]' in second


def test_a_checkpoint_without_its_tag_says_which_tags_there_are(copy: Path) -> None:
    first, second = refusal(f"timm:test_vit@{copy / 'model.safetensors'}").splitlines()
    assert "weights without their preprocessing" in first
    assert "r160_in1k" in second
    assert "save_for_hf" in second


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"depth": 10**9}, "has depth 1000000000, expected at most 1000"),
        ({"embed_dim": 10**9}, "has embed_dim 1000000000, expected at most 65536"),
        ({"embed_dim": 60_000, "num_heads": 1}, "the files hold"),
        ({"num_heads": 5}, "describes no model of timm"),
        ({"checkpoint_path": "/etc/passwd"}, "describes no model of timm"),
        ({"features_only": True}, "describes no model of timm"),
        ({"pretrained": True}, "describes no model of timm"),
        ({"in_chans": 1}, "expected RGB"),
    ],
)
def test_a_config_that_cannot_be(copy: Path, arguments: dict[str, Any], says: str) -> None:
    edit_config(copy, lambda document: document["model_args"].update(arguments))
    assert says in refusal(f"timm:{copy}")


def test_unknown_names_and_tags_list_near_ones(copy: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown tag of resnet50 'a1_in1'; did you mean a1_in1k"):
        load_teacher("timm:resnet50.a1_in1")
    edit_config(copy, lambda document: document.update(architecture="test_vitt"))
    with pytest.raises(UnknownNameError, match="did you mean test_vit"):
        load_teacher(f"timm:{copy}")


def test_weights_that_are_nowhere_to_be_had_say_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(tag="in1k", hf_hub_id=None, url="https://example.org/gcvit.pth")
    monkeypatch.setattr(family, "_library_config", lambda _model: config)
    first, second = refusal("timm:gcvit_base.in1k").splitlines()
    assert "no weights of gcvit_base.in1k on the hub" in first
    assert second == "download https://example.org/gcvit.pth yourself and say `--teacher timm:gcvit_base.in1k@FILE`"


def test_a_pickle_with_code_is_refused_and_named(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    assert f"'{tmp_path}/evil.pth' is a pickle that holds more" in refusal(
        f"timm:test_vit.r160_in1k@{tmp_path}/evil.pth"
    )
    torch.save({"epoch": 3}, tmp_path / "counters.pth")
    assert "holds no weights" in refusal(f"timm:test_vit.r160_in1k@{tmp_path}/counters.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04cut")
    assert "cut.pth" in refusal(f"timm:test_vit.r160_in1k@{tmp_path}/cut.pth")


@pytest.mark.parametrize("architecture", ["test_vit", "vit_tiny_patch16_224", "test_convnext", "test_resnet"])
def test_the_backbone_has_every_trained_parameter_once_and_saves_what_loads(
    folders: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    teacher = load_teacher(f"timm:{folders[architecture]}")
    backbone = teacher.backbone
    assert backbone is not None
    assert backbone.output == "pooled"
    pixels = torch.stack([teacher.preprocess(image) for image in pictures()])
    backbone.module.requires_grad_(True)
    features = backbone.features(pixels)
    torch.testing.assert_close(features.detach(), teacher.embed(pixels, ["pooled"])["pooled"], atol=1e-5, rtol=1e-5)
    held = list(backbone.module.parameters())
    gradients: Sequence[Tensor | None] = torch.autograd.grad(features.square().sum(), held, allow_unused=True)
    reached = {id(parameter) for parameter, gradient in zip(held, gradients, strict=True) if gradient is not None}
    listed = [parameter for part in backbone.parts for parameter in part]
    assert len({id(parameter) for parameter in listed}) == len(listed)
    assert {id(parameter) for parameter in listed} == reached
    assert len(backbone.parts) > 3
    with torch.no_grad():
        for parameter in listed:
            parameter.mul_(1.01)
    tuned = backbone.features(pixels).detach()
    backbone.save(tmp_path / "tuned")
    again = load_teacher(f"timm:{tmp_path / 'tuned'}")
    torch.testing.assert_close(again.embed(pixels, ["pooled"])["pooled"], tuned, atol=1e-5, rtol=1e-5)
    assert again.spec.preprocess == teacher.spec.preprocess
    assert again.spec.outputs == teacher.spec.outputs
    assert again.spec.model == teacher.spec.model


@pytest.mark.parametrize("name", FAMILIES["timm"].models)
def test_the_table_is_right_about_its_models(name: str) -> None:
    known = FAMILIES["timm"].models[name]
    with torch.device("meta"):
        model = timm.create_model(name)
    config = model.pretrained_cfg
    assert known.source == config["hf_hub_id"]
    assert known.licence == config["license"]
    assert known.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert known.outputs == find_outputs(model, config["input_size"][1:]).specs
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    assert known.preprocess == describe_transform(transform, name)
