import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig

import embedkd.teachers.openclip_model as models
from embedkd.records import OutputSpec
from embedkd.teachers import Teacher, load_teacher
from embedkd.teachers.families import FAMILIES
from embedkd.teachers.known.openclip import DEFAULT_TAGS
from embedkd.teachers.openclip import _tokens
from embedkd.teachers.openclip_model import ClipSource
from embedkd.teachers.transforms import describe_transform
from tests.contracts import TeacherContract
from tests.teachers.clipart import pictures
from tests.teachers.clips import ARCHITECTURES, PIXELS, save_clip, tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

CAPTIONS = ["a photo of a cat", "", "The red, small HOUSE!", "tree " * 40]
WEIGHTS = "open_clip_model.safetensors"
OFFERS = {
    "own": "image, text, cls, patch_mean; cls@k and patch_mean@k for k from -3 to 2",
    "resnet": "image, text",
    "custom": "image, text, cls, patch_mean; cls@k and patch_mean@k for k from -3 to 2",
    "averaging": "image, text, patch_mean; patch_mean@k for k from -3 to 2",
    "siglip": "image, text, cls, patch_mean; cls@k and patch_mean@k for k from -6 to 5",
    "mobile": "image, text",
    "coca": "image, text",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("clips")
    return {name: save_clip(root / name, name) for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def own(folders: dict[str, Path]) -> Teacher:
    return load_teacher(f"openclip:{folders['own']}")


@pytest.fixture(scope="module")
def siglip(folders: dict[str, Path]) -> Teacher:
    return load_teacher(f"openclip:{folders['siglip']}")


def batch(teacher: Teacher) -> Tensor:
    return torch.stack([teacher.preprocess(image) for image in pictures()])


class TestOpenClipTeacher(TeacherContract):
    @pytest.fixture
    def teacher(self, own: Teacher) -> Teacher:
        return own


class TestSigLipTeacher(TeacherContract):
    @pytest.fixture
    def teacher(self, siglip: Teacher) -> Teacher:
        return siglip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pixels_tokens_and_outputs_are_those_of_open_clips_own_code(folders: dict[str, Path], name: str) -> None:
    place = f"local-dir:{folders[name]}"
    reference, transform = open_clip.create_model_from_pretrained(place)
    reference.eval()
    teacher = load_teacher(f"openclip:{folders[name]}")
    assert teacher.spec.offer == OFFERS[name]
    for image in pictures():
        assert torch.equal(teacher.preprocess(image), transform(image))
    assert teacher.tokenize is not None
    captions = teacher.tokenize(CAPTIONS)
    assert torch.equal(captions, open_clip.get_tokenizer(place)(CAPTIONS))
    pixels = batch(teacher)
    with torch.no_grad():
        image = reference.encode_image(pixels, normalize=False)
        text = reference.encode_text(captions, normalize=False)
    torch.testing.assert_close(teacher.embed(pixels, ["image"])["image"], image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(teacher.embed_text(captions), text, atol=1e-5, rtol=1e-5)
    bias = None if reference.logit_bias is None else reference.logit_bias.item()
    assert (teacher.spec.logit_scale, teacher.spec.logit_bias) == (reference.logit_scale.exp().item(), bias)
    assert not teacher.spec.normalised


@pytest.mark.parametrize("name", [name for name, offer in OFFERS.items() if "@" in offer])
def test_tokens_are_those_of_the_towers_own_blocks(folders: dict[str, Path], name: str) -> None:
    reference, _ = open_clip.create_model_from_pretrained(f"local-dir:{folders[name]}")
    visual = reference.eval().visual
    trunk = getattr(visual, "trunk", None)
    blocks = trunk.blocks if trunk is not None else visual.transformer.resblocks
    norm = trunk.norm if trunk is not None else visual.ln_post
    seen: dict[int, Tensor] = {}
    for number, block in enumerate(blocks):
        block.register_forward_hook(lambda _module, _inputs, said, number=number: seen.update({number: said}))
    teacher = load_teacher(f"openclip:{folders[name]}")
    pixels = batch(teacher)
    with torch.no_grad():
        reference.encode_image(pixels)
        seen[len(blocks)] = norm(seen[len(blocks) - 1])
    wanted = ["patch_mean", "patch_mean@0", "patch_mean@-1"]
    wanted += ["cls", "cls@0", "cls@1", "cls@-1"] if teacher.spec.output("cls") else []
    found = teacher.embed(pixels, ["image", *wanted])
    for output in wanted:
        base, at, layer = output.partition("@")
        said = seen[int(layer) % len(blocks) if at else len(blocks)]
        rows = said[:, 0] if base == "cls" else said[:, 1:].mean(1)
        torch.testing.assert_close(found[output], rows, atol=1e-5, rtol=1e-5)
        assert torch.equal(teacher.embed(pixels, [output])[output], found[output])


@pytest.mark.parametrize("name", ["own", "custom"])
def test_cls_is_what_the_projection_reads(folders: dict[str, Path], name: str) -> None:
    teacher = load_teacher(f"openclip:{folders[name]}")
    found = teacher.embed(batch(teacher), ["cls", "image"])
    projection = load_file(folders[name] / WEIGHTS)["visual.proj"]
    torch.testing.assert_close(found["cls"] @ projection, found["image"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("pixels", "resize_px", "pad_rgb"),
    [
        ({"resize_mode": "squash"}, (32, 32), None),
        ({"resize_mode": "longest", "interpolation": "bilinear"}, 32, (0, 0, 0)),
    ],
)
def test_every_way_to_resize_is_open_clips_and_is_described(
    tmp_path: Path, pixels: dict[str, Any], resize_px: object, pad_rgb: object
) -> None:
    folder = save_clip(tmp_path / "model", "own", **pixels)
    teacher = load_teacher(f"openclip:{folder}")
    _, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    for image in pictures():
        assert torch.equal(teacher.preprocess(image), transform(image))
    facts = teacher.spec.preprocess
    assert (facts.resize_px, facts.crop_px, facts.pad_rgb) == (resize_px, (32, 32), pad_rgb)
    assert facts.interpolation == pixels.get("interpolation", "bicubic")


def test_the_spec_is_what_the_folder_says(own: Teacher, siglip: Teacher, folders: dict[str, Path]) -> None:
    spec = own.spec
    assert spec.name == "openclip:own"
    assert spec.source == str(folders["own"])
    assert (spec.preprocess.mean, spec.preprocess.std) == (tuple(PIXELS["mean"]), tuple(PIXELS["std"]))
    assert (spec.revision, spec.licence, spec.random_weights) == (None, None, False)
    assert '"quick_gelu": true' in spec.model
    assert spec.tokenizer is not None
    assert spec.tokenizer.startswith("open_clip SimpleTokenizer, 16 tokens, clean lower, sha256 ")
    assert siglip.spec.tokenizer is not None
    assert siglip.spec.tokenizer.startswith("open_clip HFTokenizer, 16 tokens, clean canonicalize, sha256 ")
    assert siglip.spec.logit_bias == -10


@pytest.mark.parametrize("name", ["own", "siglip"])
def test_tokenizing_travels_to_workers_without_the_model(folders: dict[str, Path], name: str) -> None:
    teacher = load_teacher(f"openclip:{folders[name]}")
    assert teacher.tokenize is not None
    blob = pickle.dumps(teacher.tokenize)
    assert len(blob) < (folders[name] / WEIGHTS).stat().st_size
    again = pickle.loads(blob)
    found = again(CAPTIONS)
    assert torch.equal(found, teacher.tokenize(CAPTIONS))
    assert (found.dtype, found.shape) == (torch.int64, (len(CAPTIONS), 16))
    assert (again([]).dtype, again([]).shape) == (torch.int64, (0, 16))
    rows = teacher.embed_text(found)
    torch.testing.assert_close(teacher.embed_text(found[2:]), rows[2:], atol=1e-5, rtol=1e-5)
    assert not rows.requires_grad


def test_a_text_tower_of_transformers_is_built_from_its_config_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    size: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertConfig(vocab_size=16, max_position_embeddings=16, intermediate_size=64, **size).save_pretrained(
        folder / "tiny-bert"
    )
    tokenizer().save_pretrained(folder)
    text = {
        "hf_model_name": str(folder / "tiny-bert"),
        "hf_model_pretrained": False,
        "hf_tokenizer_name": "nobody/tiny-bert",
        "context_length": 16,
    }
    with torch.random.fork_rng(devices=[]):
        reference = open_clip.CustomTextCLIP(24, ARCHITECTURES["own"]["vision_cfg"], text).eval()
    save_file(reference.state_dict(), folder / WEIGHTS)
    config = {"embed_dim": 24, "vision_cfg": ARCHITECTURES["own"]["vision_cfg"]}
    config["text_cfg"] = text | {"hf_model_name": "nobody/tiny-bert"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": PIXELS}))
    teacher = load_teacher(f"openclip:{folder}")
    assert teacher.tokenize is not None
    captions = teacher.tokenize(CAPTIONS)
    with torch.no_grad():
        torch.testing.assert_close(teacher.embed_text(captions), reference.encode_text(captions), atol=1e-5, rtol=0)
    assert teacher.backbone is not None
    teacher.backbone.save(tmp_path / "saved")
    assert load_teacher(f"openclip:{tmp_path / 'saved'}").spec.fingerprint == teacher.spec.fingerprint


@pytest.mark.parametrize("name", FAMILIES["openclip"].models)
def test_the_table_is_right_about_its_models(name: str) -> None:
    known = FAMILIES["openclip"].models[name]
    config = open_clip.get_pretrained_cfg(name, DEFAULT_TAGS[name])
    assert f"{known.source}/" == config["hf_hub"]
    architecture = open_clip.get_model_config(name)
    with torch.device("meta"):
        model: Any = models._creator(ClipSource(name, architecture, config))().eval()
    assert known.parameters == sum(parameter.numel() for parameter in model.visual.parameters())
    given = {key: config[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    transform = image_transform_v2(PreprocessCfg(size=model.visual.image_size, **given), is_train=False)
    assert known.preprocess == describe_transform(transform, name)
    with torch.device("meta"), torch.no_grad():
        image = model.encode_image(torch.zeros(1, 3, *known.preprocess.crop_px))
    spaces = (OutputSpec("image", image.shape[1]), OutputSpec("text", architecture["embed_dim"]))
    assert known.outputs == (*spaces, *_tokens(model, known.preprocess.crop_px).token_specs)


@pytest.mark.parametrize("name", ["own", "resnet", "siglip", "mobile", "coca"])
def test_the_backbone_has_every_trained_parameter_once_and_saves_what_loads(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    teacher = load_teacher(f"openclip:{folders[name]}")
    backbone = teacher.backbone
    assert backbone is not None
    assert backbone.output == "image"
    pixels = batch(teacher)
    backbone.module.requires_grad_(True)
    features = backbone.features(pixels)
    torch.testing.assert_close(features.detach(), teacher.embed(pixels, ["image"])["image"], atol=1e-5, rtol=1e-5)
    held = list(backbone.module.parameters())
    gradients: Sequence[Tensor | None] = torch.autograd.grad(features.square().sum(), held, allow_unused=True)
    reached = {id(parameter) for parameter, gradient in zip(held, gradients, strict=True) if gradient is not None}
    listed = [parameter for part in backbone.parts for parameter in part]
    assert len({id(parameter) for parameter in listed}) == len(listed)
    assert {id(parameter) for parameter in listed} == reached
    assert len(backbone.parts) >= 5
    with torch.no_grad():
        for parameter in listed:
            parameter.mul_(1.01)
    tuned = backbone.features(pixels).detach()
    backbone.save(tmp_path / "tuned")
    again = load_teacher(f"openclip:{tmp_path / 'tuned'}")
    torch.testing.assert_close(again.embed(pixels, ["image"])["image"], tuned, atol=1e-5, rtol=1e-5)
    assert (again.spec.preprocess, again.spec.outputs) == (teacher.spec.preprocess, teacher.spec.outputs)
    assert (again.spec.model, again.spec.tokenizer) == (teacher.spec.model, teacher.spec.tokenizer)
    assert again.tokenize is not None
    captions = again.tokenize(CAPTIONS)
    assert torch.equal(again.embed_text(captions), teacher.embed_text(captions))
