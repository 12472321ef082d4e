"""The packaged teacher, loaded once, and small ViTs as transformers saves them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

from embedkd.teachers import Teacher, load_teacher

SaveViT = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads wait for each other in busy loops: 20 times slower where other processes want the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def lite0() -> Teacher:
    return load_teacher("packaged:efficientnet-lite0")


@pytest.fixture(scope="session")
def photos() -> dict[str, Image.Image]:
    return {name: Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")}


@pytest.fixture(scope="session")
def save_vit() -> SaveViT:
    """A function that saves a small ViT with random weights, 32 px, into a folder, with its image processor."""

    def save(folder: Path, *, head: bool = False, seed: int = 0, **architecture: Any) -> Path:
        small: dict[str, Any] = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": 32,
            "patch_size": 8,
        }
        config = ViTConfig(**(small | architecture))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = (ViTForImageClassification if head else ViTModel)(config)
            # The library starts class token and positions near zero: draw them too, or every image looks the same.
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
        processor = ViTImageProcessor(
            size={"height": 32, "width": 32}, image_mean=[0.48, 0.46, 0.41], image_std=[0.27, 0.26, 0.28], resample=3
        )
        processor.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory, save_vit: SaveViT) -> Path:
    return save_vit(tmp_path_factory.mktemp("vit"))
