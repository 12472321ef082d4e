import pytest
import timm
import torch
from torchvision import models

from embedkd.errors import UnknownNameError
from embedkd.students import parameter_count, resolve_name
from embedkd.students.torchvision_names import TIMM_NAMES

# Of each family; the larger ones were compared once, as they take long to build.
SMALL = (
    *("resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "densenet121", "convnext_tiny", "efficientnet_b0"),
    *("vgg11_bn", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "swin_t", "vit_b_32"),
)


@pytest.mark.parametrize(
    ("name", "model", "architecture", "tag", "weights"),
    [
        ("vit-base", "vit-base", "vit_base_patch16_224", None, None),
        ("vit-base@runs/a@b", "vit-base", "vit_base_patch16_224", None, "runs/a@b"),
        ("timm:resnet18", "timm:resnet18", "resnet18", None, None),
        ("timm:resnet18.a1_in1k", "timm:resnet18", "resnet18", "a1_in1k", None),
        ("timm:resnet18.a1_in1k@w.pth", "timm:resnet18", "resnet18", "a1_in1k", "w.pth"),
        ("torchvision:mobilenet_v3_small", "torchvision:mobilenet_v3_small", "mobilenetv3_small_100", None, None),
    ],
)
def test_a_name_is_taken_apart(name: str, model: str, architecture: str, tag: str | None, weights: str | None) -> None:
    found = resolve_name(name)

    assert (found.model, found.architecture, found.tag, found.weights) == (model, architecture, tag, weights)
    assert found.spelled == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet19", "unknown student 'timm:resnet19'; did you mean timm:resnet18"),
        ("resnet18", "unknown student 'resnet18'; did you mean timm:resnet18"),
        ("vit-bse", "did you mean vit-base"),
        ("torchvision:mobilenet_v3_smal", "did you mean mobilenet_v3_small"),
        ("torchvision:alexnet", "unknown model of torchvision that timm has 'alexnet'"),
        ("timm:", "unknown student 'timm:'"),
        ("hf:resnet18", "did you mean timm:resnet18"),
        ("", "unknown student ''"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        resolve_name(name)


@pytest.mark.parametrize("name", SMALL)
def test_torchvision_s_models_are_timm_s(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = timm.create_model(TIMM_NAMES[name], num_classes=1000), models.get_model(name)

    assert parameter_count(ours) == parameter_count(theirs)


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_400mf"])
def test_torchvision_s_regnets_are_timm_s(name: str) -> None:
    # torchvision cannot build them on the meta device.
    assert parameter_count(timm.create_model(TIMM_NAMES[name])) == parameter_count(models.get_model(name))


def test_every_name_of_torchvision_is_one_of_both() -> None:
    assert set(TIMM_NAMES) <= set(models.list_models(module=models))
    assert set(TIMM_NAMES.values()) <= set(timm.list_models())
