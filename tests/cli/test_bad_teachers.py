"""Teachers that cannot be had or must not be run: exit code 1, one or two lines, and no store left behind."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from embedkd.sources.pack import pack
from tests.teachers.conftest import SaveViT, save_vit, vit_folder

__all__ = ["save_vit", "vit_folder"]

Refused = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(refused: Refused, shards: Path, tmp_path: Path) -> Callable[..., str]:
    """What precompute says of a teacher that it refuses."""

    def run(teacher: object, *more: object) -> str:
        message = refused("precompute", "--teacher", teacher, "--data", shards, "--out", tmp_path / "s.zarr", *more)
        assert not (tmp_path / "s.zarr").exists()
        return message

    return run


def test_no_hub_within_reach(said: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, repository in (
        ("ViT-L-32", "google/vit-large-patch32-224-in21k"),
        ("hf:nobody/nothing", "nobody/nothing"),
        ("openclip:ViT-B-32@laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    ):
        message = said(name)
        assert f"cannot get {repository}" in message
        assert "--teacher" in message.splitlines()[1]


def test_weights_that_do_not_fit(said: Callable[..., str], vit_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(vit_folder, tmp_path / "vit"))
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.endswith("layernorm.weight"))
    state[name] = torch.zeros(7)
    save_file(state, folder / "model.safetensors")
    message = said(f"vit:{folder}")
    assert "1 differences" in message
    assert "is [7], the model expects [32]" in message


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_a_pickle_with_code_in_it(
    said: Callable[..., str], vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(vit_folder, tmp_path / "vit"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Evil()}))
    message = said(f"vit:{folder}")
    assert "pytorch_model.bin' is a pickle that holds more than tensors" in message
    assert not (tmp_path / "ran").exists()


def test_a_model_that_brings_its_own_code(said: Callable[..., str], vit_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(vit_folder, tmp_path / "custom"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "--trust-code" in said(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_does_not_say_how_images_are_prepared(
    said: Callable[..., str], vit_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(vit_folder, tmp_path / "vit"))
    (folder / "preprocessor_config.json").unlink()
    message = said(f"vit:{folder}")
    assert "the size, mean and std of its images are unknown" in message
    assert "save_pretrained" in message


def test_outputs_that_the_teacher_lacks(said: Callable[..., str], vit_folder: Path) -> None:
    assert "has no output 'image'; it has: cls, " in said(f"vit:{vit_folder}", "--outputs", "image")
    assert "for k from -2 to 1" in said(f"vit:{vit_folder}", "--outputs", "cls@-3")


def test_captions_that_are_not_there(embedkd: Command, images: Path, tmp_path: Path) -> None:
    """The data has no captions at all: the run stops before anything is committed, and says so."""
    shards = pack(images, tmp_path / "shards", rows_per_shard=20, val=0, test=0).folder
    names = ("openclip:ViT-B-32@laion2b_s34b_b79k", "--weights", "random", "--outputs", "text")
    code, _, err = embedkd("precompute", "--teacher", *names, "--data", shards, "--out", tmp_path / "s.zarr")
    assert code == 1
    assert "have no caption that can be used" in err.splitlines()[-1]
    assert not list((tmp_path / "s.zarr").rglob("commits/*.json"))


def test_a_teacher_that_says_nan(embedkd: Command, save_vit: SaveViT, shards: Path, tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "vit")
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.endswith("layernorm.bias"))
    state[name] = torch.full_like(state[name], np.nan)
    save_file(state, folder / "model.safetensors")
    arguments = ("precompute", "--teacher", f"vit:{folder}", "--data", shards, "--out", tmp_path / "s.zarr")
    code, _, err = embedkd(*arguments)
    assert code == 1
    assert "cls is not finite for" in err
    assert "--outputs" in err.splitlines()[-1]
    code, out, _ = embedkd(*arguments, "--set", "precompute.max_bad_fraction=1")
    assert code == 0
    assert "rows without an embedding: 36 non finite" in out
