"""Teachers of real families: tuned, saved as their library saves them, and loaded again with the same bits."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import timm
import torch
from torch import nn
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from embedkd.config.tuning import FinetuneConfig
from embedkd.finetune import finetune, setting
from embedkd.teachers import load_teacher

if TYPE_CHECKING:
    from embedkd.finetune.tuner import Tuner

ConfigOf = Callable[..., FinetuneConfig]
PX = 32


def save_vit(folder: Path) -> Path:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=PX, patch_size=16
    )
    model = ViTModel(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    size = {"height": PX, "width": PX}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.25] * 3, resample=3).save_pretrained(folder)
    return folder


def save_timm(folder: Path) -> Path:
    model = timm.create_model("test_efficientnet.r160_in1k", pretrained=False, num_classes=7)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return folder


@pytest.fixture(autouse=True)
def real_families(toy_family: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names mean what they mean outside of these tests again."""
    monkeypatch.setattr(setting, "load_teacher", load_teacher)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(("save", "last_blocks"), [(save_vit, None), (save_vit, 1), (save_timm, None), (save_timm, 1)])
def test_the_folder_is_a_teacher_of_its_family_with_the_tuned_logits(
    config_of: ConfigOf,
    data: Path,
    tmp_path: Path,
    tuners: "list[Tuner]",
    save: Callable[[Path], Path],
    last_blocks: int | None,
) -> None:
    folder = save(tmp_path / "base")
    config = config_of(teacher=str(folder), epochs=1, warmup_epochs=1, last_blocks=last_blocks)
    result = finetune(config, str(data))
    base, tuned = load_teacher(str(folder)), load_teacher(config.out)
    assert tuned.spec.derived_from == f"{base.spec.name} {base.spec.fingerprint}"
    assert tuned.spec.preprocess == base.spec.preprocess
    logits = tuned.spec.output("logits")
    assert logits is not None
    assert logits.dim == result.classes == 3
    pixels = torch.randn(4, 3, *base.spec.preprocess.crop_px)
    tuners[0].backbone.module.eval()
    with torch.inference_mode():
        expected = tuners[0].logits(pixels)
    assert torch.equal(tuned.embed(pixels, ["logits"])["logits"], expected)
    before, after = base.backbone, tuned.backbone
    assert before is not None
    assert after is not None
    same = [
        [torch.equal(old, new) for old, new in zip(*parts, strict=True)]
        for parts in zip(before.parts, after.parts, strict=True)
    ]
    frozen = 0 if last_blocks is None else len(same) - 2
    assert all(all(part) for part in same[:frozen])
    assert not any(all(part) for part in same[frozen:])
