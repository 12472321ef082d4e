import json
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as library
from safetensors.torch import load_file

from embedkd.errors import TeacherError
from embedkd.teachers import LoadOptions, Teacher, load_teacher
from tests.contracts import TeacherContract
from tests.teachers.clipart import pictures
from tests.teachers.saved_transformers import LABELS, edit_json, edit_weights, from_pretrained, save_kind

Saved = Callable[[str], tuple[Path, Teacher]]
PAIRS = ("clip", "siglip", "siglip2")
# Kind -> tokens in front of its patches, None where it has no sequence; and what it offers.
TOWERS: dict[str, tuple[int | None, list[str]]] = {
    "clip-vision": (1, ["cls", "patch_mean"]),
    "clip-projection": (1, ["image", "cls", "patch_mean"]),
    "siglip-vision": (0, ["pooled", "patch_mean"]),
    "beit": (1, ["cls", "pooled", "logits", "patch_mean"]),
    "dinov3": (3, ["cls", "patch_mean"]),
    "swin": (0, ["pooled", "patch_mean"]),
    "resnet": (None, ["pooled", "logits"]),
    "convnext": (None, ["pooled"]),
}
CAPTIONS = ("A Cat", "a bat at a hat", "", "far too long " * 20)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A function from a kind to its folder and its teacher, each made once."""

    @cache
    def get(kind: str) -> tuple[Path, Teacher]:
        folder = save_kind(kind, tmp_path_factory.mktemp(kind) / kind)
        return folder, load_teacher(f"hf:{folder}")

    return get


@pytest.fixture
def copy(saved: Saved, tmp_path: Path) -> Callable[[str], Path]:
    """A function that copies a kind's folder, free to be damaged."""
    return lambda kind: Path(shutil.copytree(saved(kind)[0], tmp_path / kind))


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(TeacherError) as caught:
        load_teacher(f"hf:{folder}", LoadOptions(**options))
    return str(caught.value)


class TestHubTeachers(TeacherContract):
    @pytest.fixture(params=[*PAIRS[:2], "clip-projection", "beit", "resnet"])
    def teacher(self, request: pytest.FixtureRequest, saved: Saved) -> Teacher:
        return saved(request.param)[1]


@pytest.mark.parametrize("kind", [*PAIRS, *TOWERS])
def test_pixels_are_those_of_the_librarys_own_call(kind: str, saved: Saved) -> None:
    folder, teacher = saved(kind)
    processor = from_pretrained("AutoProcessor", folder)
    for image in pictures():
        assert torch.equal(teacher.preprocess(image), processor(images=image, return_tensors="pt")["pixel_values"][0])


@pytest.mark.parametrize("kind", PAIRS)
def test_images_and_texts_are_the_librarys(kind: str, saved: Saved) -> None:
    folder, teacher = saved(kind)
    processor = from_pretrained("AutoProcessor", folder)
    padded = {"padding": "max_length", "truncation": True, "max_length": 16}
    inputs = processor(images=list(pictures()), text=list(CAPTIONS), **padded, return_tensors="pt")
    pixels = inputs.pop("pixel_values")
    model = from_pretrained("AutoModel", folder).eval()
    with torch.no_grad():
        said = model.vision_model(pixel_values=pixels, output_hidden_states=True)
        expected = {"image": model.get_image_features(pixel_values=pixels).pooler_output}
        patches = said.last_hidden_state
        if kind == "clip":
            expected["cls"] = said.pooler_output
            expected |= {"cls@0": said.hidden_states[1][:, 0], "cls@-1": said.hidden_states[2][:, 0]}
            patches = model.vision_model.post_layernorm(patches)[:, 1:]
        first = int(kind == "clip")
        expected |= {"patch_mean": patches.mean(1), "patch_mean@0": said.hidden_states[1][:, first:].mean(1)}
        text = model.get_text_features(**inputs).pooler_output
    found = teacher.embed(torch.stack([teacher.preprocess(image) for image in pictures()]), list(expected))
    for name, rows in expected.items():
        torch.testing.assert_close(found[name], rows, atol=1e-5, rtol=0)
    assert teacher.tokenize is not None
    tokens = teacher.tokenize(CAPTIONS)
    assert torch.equal(tokens, inputs["input_ids"])
    torch.testing.assert_close(teacher.embed_text(tokens), text, atol=1e-5, rtol=0)
    assert len(torch.unique(text, dim=0)) == len(CAPTIONS)


@pytest.mark.parametrize("kind", PAIRS)
def test_logits_of_images_and_texts_follow_from_the_spec(kind: str, saved: Saved) -> None:
    """Rows, scale and bias of the store are all that zero-shot needs."""
    folder, teacher = saved(kind)
    inputs = from_pretrained("AutoProcessor", folder)(
        images=list(pictures()), text=list(CAPTIONS), padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = from_pretrained("AutoModel", folder).eval()(**inputs).logits_per_image
    assert teacher.tokenize is not None
    pixels = torch.stack([teacher.preprocess(image) for image in pictures()])
    rows, texts = teacher.embed(pixels, ["image"])["image"], teacher.embed_text(teacher.tokenize(CAPTIONS))
    cosines = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T
    assert teacher.spec.logit_scale is not None
    found = cosines * teacher.spec.logit_scale + (teacher.spec.logit_bias or 0.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (teacher.spec.logit_bias is None) is (kind == "clip")


@pytest.mark.parametrize("kind", TOWERS)
def test_every_output_of_a_tower_is_the_librarys(kind: str, saved: Saved) -> None:
    folder, teacher = saved(kind)
    special, offered = TOWERS[kind]
    assert [output.name for output in teacher.spec.outputs] == offered
    pixels = torch.stack([teacher.preprocess(image) for image in pictures()])
    with torch.no_grad():
        model = from_pretrained("AutoModel", folder).eval()
        said = model(pixel_values=pixels, output_hidden_states=True)
        expected: dict[str, torch.Tensor] = {}
        if special is not None:
            tokens = said.last_hidden_state
            normed = model.post_layernorm(tokens) if kind.startswith("clip") else tokens
            expected = {"cls": normed[:, 0], "patch_mean": normed[:, special:].mean(1)}
        if said.pooler_output is not None:
            expected["pooled"] = said.pooler_output.flatten(1)
        if "logits" in offered:
            whole = from_pretrained("AutoModelForImageClassification", folder).eval()
            expected["logits"] = whole(pixel_values=pixels).logits
            assert expected["logits"].shape[1] == LABELS
        if "image" in offered:
            whole = from_pretrained("CLIPVisionModelWithProjection", folder).eval()
            expected["image"] = whole(pixel_values=pixels).image_embeds
        if teacher.spec.layers:
            name = "cls@-2" if special else "patch_mean@-2"
            expected[name] = said.hidden_states[1][:, 0] if special else said.hidden_states[1].mean(1)
            offered = [*offered, name]
    found = teacher.embed(pixels, offered)
    for name in offered:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)


def test_stages_that_merge_patches_are_no_inner_layers(saved: Saved) -> None:
    assert [saved(kind)[1].spec.layers for kind in ("swin", "resnet", "convnext", "beit", "dinov3")] == [0, 0, 0, 2, 2]


@pytest.mark.parametrize("kind", PAIRS)
def test_captions_travel_without_the_model(kind: str, saved: Saved) -> None:
    tokenize = saved(kind)[1].tokenize
    assert tokenize is not None
    tokens = pickle.loads(pickle.dumps(tokenize))(CAPTIONS)
    assert torch.equal(tokens, tokenize(CAPTIONS))
    assert (tokens.dtype, tokens.shape) == (torch.int64, (len(CAPTIONS), 16))
    assert tokenize([]).shape == (0, 16)
    assert torch.equal(tokenize(["A CAT"]), tokenize(["a cat"]))  # both libraries' tokenizers lower letters


def test_the_tokenizer_is_part_of_the_fingerprint(saved: Saved, copy: Callable[[str], Path]) -> None:
    folder, spec = copy("clip"), saved("clip")[1].spec
    assert spec.tokenizer is not None
    assert spec.tokenizer.startswith("transformers CLIPTokenizer, 16 tokens, sha256 ")
    assert load_teacher(f"hf:{folder}").spec.fingerprint == spec.fingerprint
    edit_json(folder / "tokenizer_config.json", unk_token="a")
    assert load_teacher(f"hf:{folder}").spec.fingerprint != spec.fingerprint


def test_a_tokenizer_without_its_package_leaves_images_alone(saved: Saved, copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    edit_json(folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    teacher = load_teacher(f"hf:{folder}")
    pixels = torch.stack([teacher.preprocess(image) for image in pictures()])
    expected = saved("siglip")[1].embed(pixels, ["image"])["image"]
    assert torch.equal(teacher.embed(pixels, ["image"])["image"], expected)
    assert teacher.tokenize is not None
    with pytest.raises(TeacherError, match=r"needs a package that is not here\ncaptions .* pip install sentencepiece"):
        teacher.tokenize(["a cat"])


def test_a_folder_without_a_vocabulary_offers_no_text(copy: Callable[[str], Path]) -> None:
    folder = copy("clip")
    (folder / "tokenizer.json").unlink()
    teacher = load_teacher(f"hf:{folder}")
    assert (teacher.spec.output("text"), teacher.tokenize, teacher.spec.tokenizer) == (None, None, None)
    with pytest.raises(TeacherError, match="has no output 'text'; it has: image, cls, patch_mean"):
        teacher.embed_text(torch.zeros(1, 16, dtype=torch.int64))


def test_a_damaged_vocabulary_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("clip")
    (folder / "tokenizer.json").write_text("{}")
    assert refusal(folder).startswith(f"cannot load the tokenizer of '{folder}'")


def test_siglip_of_any_shape_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    edit_json(folder / "config.json", model_type="siglip2")
    first, second = refusal(folder).splitlines()
    assert "NaFlex" in first
    assert "fixed resolution" in second


def save_other(folder: Path, model: Any) -> Path:
    """A model that is no encoder of images, with an image processor beside it."""
    model.save_pretrained(folder)
    processor: Any = library.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    return folder


def test_a_model_that_draws_at_random_is_no_teacher(tmp_path: Path) -> None:
    """A masked autoencoder hides patches of every image it sees, other ones each time."""
    tower: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config: Any = library.ViTMAEConfig(**tower, intermediate_size=64, image_size=32, patch_size=8)
    model: Any = library.ViTMAEModel
    assert "draws at random; it is no teacher" in refusal(save_other(tmp_path / "mae", model(config)))


def test_a_model_of_texts_is_no_teacher(tmp_path: Path) -> None:
    tower: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    config: Any = library.BertConfig(**tower, intermediate_size=64)
    model: Any = library.BertModel
    first, second = refusal(save_other(tmp_path / "bert", model(config))).splitlines()
    assert "BertModel takes no images of this size alone" in first
    assert second == "hf: reads CLIP, SigLIP, and encoders of images alone"


@pytest.mark.parametrize("kind", ["clip", "siglip", "beit", "resnet"])
def test_half_precision_says_nearly_the_same(kind: str, saved: Saved) -> None:
    folder, exact = saved(kind)
    half = load_teacher(f"hf:{folder}", LoadOptions(precision="bfloat16"))
    pixels = torch.stack([exact.preprocess(image) for image in pictures()])
    names = [output.name for output in exact.spec.outputs if output.name != "text"]
    pairs = zip(exact.embed(pixels, names).values(), half.embed(pixels, names).values(), strict=True)
    for expected, rows in pairs:
        assert not torch.equal(rows, expected)
        assert torch.nn.functional.cosine_similarity(rows, expected).min() > 0.999
    if exact.tokenize is not None:
        tokens = exact.tokenize(CAPTIONS)
        assert torch.nn.functional.cosine_similarity(half.embed_text(tokens), exact.embed_text(tokens)).min() > 0.999


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("clip", {"vision_config": {"image_size": 64, "patch_size": 8}}, "gives (32, 32) px, the model takes (64, 64)"),
        ("clip", {"text_config": {"hidden_size": 10**8}}, "has hidden_size 100000000, expected 1 to 65536"),
        ("clip", {"vision_config": {"num_hidden_layers": 10**5}}, "has num_hidden_layers 100000, expected 1 to 1000"),
        ("clip", {"projection_dim": 13}, "visual_projection.weight is [12, 32], the model expects [13, 32]"),
        ("clip", {"model_type": "no-such"}, "has no model_type 'no-such'; a newer one may have it"),
        ("clip", {"text_config": {"vocab_size": 9_000_000}}, "weights, the files hold"),
        ("resnet", {"depths": [1, 5000]}, "has depths 5000, expected 1 to 1000"),
        ("resnet", {"num_channels": 1}, "takes 1 channels"),
        ("resnet", {"id2label": {"0": "cat"}}, f"classifier.1.bias is [{LABELS}], the model expects [1]"),
        ("beit", {"image_size": 64}, "position"),
    ],
)
def test_a_config_that_cannot_be(kind: str, changes: dict[str, Any], says: str, copy: Callable[[str], Path]) -> None:
    folder = copy(kind)
    document = json.loads((folder / "config.json").read_text())
    merged = {
        key: document[key] | value if isinstance(value, dict) and key != "id2label" else value
        for key, value in changes.items()
    }
    edit_json(folder / "config.json", **merged)
    assert says in refusal(folder)


def test_weights_of_half_a_pair_are_listed(copy: Callable[[str], Path]) -> None:
    folder = copy("clip")
    edit_weights(folder, lambda state: [state.pop(name) for name in list(state) if name.startswith("text_model.")])
    first, second = refusal(folder).splitlines()
    assert first.startswith(f"the weights of '{folder}' do not fit its model")
    assert "text_model." in second
    assert second.endswith("more")


def test_a_classifier_that_reads_its_pooler_needs_it(copy: Callable[[str], Path]) -> None:
    folder = copy("beit")
    edit_weights(folder, lambda state: [state.pop(name) for name in list(state) if "pooler" in name])
    assert "pooler.layernorm.bias is missing" in refusal(folder)


def test_weights_can_be_a_pickle_and_hold_counted_positions(copy: Callable[[str], Path], saved: Saved) -> None:
    folder = copy("clip")

    def with_positions(state: dict[str, torch.Tensor]) -> None:
        state["text_model.embeddings.position_ids"] = torch.arange(16)[None]  # as OpenAI's files hold them

    edit_weights(folder, with_positions)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert load_teacher(f"hf:{folder}").spec.fingerprint == saved("clip")[1].spec.fingerprint


@pytest.mark.parametrize("kind", [*PAIRS, *TOWERS])
def test_random_weights_of_a_folder(kind: str, copy: Callable[[str], Path]) -> None:
    folder = copy(kind)
    (folder / "model.safetensors").unlink()
    first, again = (load_teacher(f"hf:{folder}", LoadOptions(random_seed=5)).spec for _ in range(2))
    assert first.fingerprint == again.fingerprint
    assert first.random_weights


def test_a_network_of_unnumbered_stages_is_not_trained(saved: Saved) -> None:
    assert saved("resnet")[1].backbone is None
